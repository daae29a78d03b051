# What every agent may do with its own token, because none of ours has the policy `default`: keep it alive.

path "auth/token/lookup-self" {
  capabilities = ["read"]
}

path "auth/token/renew-self" {
  capabilities = ["update"]
}
