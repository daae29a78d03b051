# A server for trying it, as deploy/compose/vault.yml runs it: alone, without TLS, and its key beside its data. It keeps what it has, so that
# a restart costs nothing. For anything that matters: a cluster of its own, TLS, an audit log, and a seal that somebody else holds.

storage "file" {
  path = "/vault/data"
}

# Made at the first start. Whoever has this volume has everything.
seal "static" {
  current_key_id = "compose"
  current_key    = "file:///vault/data/seal.key"
}

listener "tcp" {
  address     = "0.0.0.0:8200"
  tls_disable = true
}
