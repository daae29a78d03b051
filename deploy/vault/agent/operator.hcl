# The files of the operator. A certificate is issued when the agent starts and whenever its token ends, which is after 12 h: half of a
# certificate's life.

template {
  destination          = "/operator/tls.crt"
  perms                = "0400"
  backup               = false
  error_on_missing_key = true
  contents             = <<END
{{- with secret "holdfast-pki/issue/operator" "common_name=operator" "uri_sans=spiffe://holdfast.internal/operator" "ttl=24h" "private_key_format=pkcs8" }}{{ .Data.certificate }}{{ end }}
END
}

# Of the same answer: equal questions are asked once.
template {
  destination          = "/operator/tls.key"
  perms                = "0400"
  backup               = false
  error_on_missing_key = true
  contents             = <<END
{{- with secret "holdfast-pki/issue/operator" "common_name=operator" "uri_sans=spiffe://holdfast.internal/operator" "ttl=24h" "private_key_format=pkcs8" }}{{ .Data.private_key }}{{ end }}
END
}

template {
  destination          = "/operator/ca.crt"
  perms                = "0444"
  backup               = false
  error_on_missing_key = true
  contents             = <<END
{{- with secret "holdfast/data/trust" }}{{ index .Data.data "ca.crt" }}{{ end -}}
END
}

template {
  destination          = "/operator/revoked"
  perms                = "0444"
  backup               = false
  error_on_missing_key = true
  contents             = <<END
{{- with secret "holdfast/data/trust" }}{{ index .Data.data "revoked" }}{{ end -}}
END
}

template {
  destination          = "/pki/token.key"
  perms                = "0400"
  backup               = false
  error_on_missing_key = true
  contents             = <<END
{{- with secret "holdfast/data/operator" }}{{ index .Data.data "token.key" }}{{ end -}}
END
}

template {
  destination          = "/pki/token.kid"
  perms                = "0400"
  backup               = false
  error_on_missing_key = true
  contents             = <<END
{{- with secret "holdfast/data/operator" }}{{ index .Data.data "token.kid" }}{{ end -}}
END
}
