# What the payment service may do: read its own secrets, and be itself. Nothing else, and nothing of the others.

# The password of its database.
path "holdfast/data/payment" {
  capabilities = ["read"]
}

# Whom to trust: authorities and the deny list.
path "holdfast/data/trust" {
  capabilities = ["read"]
}

# The role allows no other name.
path "holdfast-pki/issue/payment" {
  capabilities = ["update"]
}
