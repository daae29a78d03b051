# What sets up servers in containers may do: it has no identity, only the passwords of who owns tables, and of superusers.

path "holdfast/data/order-owner" {
  capabilities = ["read"]
}

path "holdfast/data/payment-owner" {
  capabilities = ["read"]
}

path "holdfast/data/delivery-owner" {
  capabilities = ["read"]
}

path "holdfast/data/order-db" {
  capabilities = ["read"]
}

path "holdfast/data/payment-db" {
  capabilities = ["read"]
}

path "holdfast/data/delivery-db" {
  capabilities = ["read"]
}
