# What migrates the tables of the delivery service may do: read the password of their owner, and be that. The service itself may not.

# The password of the owner's role.
path "holdfast/data/delivery-owner" {
  capabilities = ["read"]
}

# Whom to trust: authorities and the deny list.
path "holdfast/data/trust" {
  capabilities = ["read"]
}

# The role allows no other name.
path "holdfast-pki/issue/delivery-owner" {
  capabilities = ["update"]
}
