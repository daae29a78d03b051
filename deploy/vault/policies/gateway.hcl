# What the gateway may do: read its own secrets, and be itself. Nothing else, and nothing of the others.

# The public keys of whoever issues tokens.
path "holdfast/data/gateway" {
  capabilities = ["read"]
}

# Redis asks for a password.
path "holdfast/data/redis" {
  capabilities = ["read"]
}

# Whom to trust: authorities and the deny list.
path "holdfast/data/trust" {
  capabilities = ["read"]
}

# The role allows no other name.
path "holdfast-pki/issue/gateway" {
  capabilities = ["update"]
}
