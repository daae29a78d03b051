# The files of the console. A certificate is issued when the agent starts and whenever its token ends, which is after 12 h: half of a
# certificate's life.

# Both in one file, so that nobody reads a certificate without its key.
template {
  destination          = "/pki/identity.pem"
  perms                = "0400"
  backup               = false
  error_on_missing_key = true
  contents             = <<END
{{- with secret "holdfast-pki/issue/console" "common_name=console" "uri_sans=spiffe://holdfast.internal/console" "ttl=24h" "private_key_format=pkcs8" }}{{ .Data.certificate }}
{{ .Data.private_key }}{{ end }}
END
}

template {
  destination          = "/pki/ca.crt"
  perms                = "0444"
  backup               = false
  error_on_missing_key = true
  contents             = <<END
{{- with secret "holdfast/data/trust" }}{{ index .Data.data "ca.crt" }}{{ end -}}
END
}

template {
  destination          = "/pki/revoked"
  perms                = "0444"
  backup               = false
  error_on_missing_key = true
  contents             = <<END
{{- with secret "holdfast/data/trust" }}{{ index .Data.data "revoked" }}{{ end -}}
END
}
