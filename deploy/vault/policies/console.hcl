# What the console may do: be itself. Nothing of the others: it has no secret of its own.

# Whom to trust: authorities and the deny list.
path "holdfast/data/trust" {
  capabilities = ["read"]
}

# The role allows no other name.
path "holdfast-pki/issue/console" {
  capabilities = ["update"]
}
