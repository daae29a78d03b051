# What Redis may do: it has no identity, only a password.

path "holdfast/data/redis" {
  capabilities = ["read"]
}
