# What whoever has the operator's commands may do: read its own secrets, and be itself. Nothing else, and nothing of the others.

# The key that signs development tokens, where there is no identity provider.
path "holdfast/data/operator" {
  capabilities = ["read"]
}

# Whom to trust: authorities and the deny list.
path "holdfast/data/trust" {
  capabilities = ["read"]
}

# The role allows no other name.
path "holdfast-pki/issue/operator" {
  capabilities = ["update"]
}
