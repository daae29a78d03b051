# What the agents in containers have in common: `bao agent -config=common.hcl -config=NAME.hcl`. Where the server is says BAO_ADDR.

auto_auth {
  method "approle" {
    # After an outage, instead of 5 min.
    max_backoff = "30s"

    config = {
      role_id_file_path                   = "/approle/role-id"
      secret_id_file_path                 = "/approle/secret-id"
      # An agent that is restarted needs it again.
      remove_secret_id_file_after_reading = false
    }
  }
}

template_config {
  # How soon a new password, key set or deny list arrives.
  static_secret_render_interval = "15s"
  # A server that is away is waited for: the files stay as they are meanwhile.
  exit_on_retry_failure         = false
}
