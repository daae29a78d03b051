# The files of the databases: of who owns tables, and of superusers. Servers, and what migrates, read them as users of their own.

template {
  destination          = "/secrets/order-owner/password"
  perms                = "0444"
  backup               = false
  error_on_missing_key = true
  contents             = <<END
{{- with secret "holdfast/data/order-owner" }}{{ index .Data.data "password" }}{{ end -}}
END
}

template {
  destination          = "/secrets/payment-owner/password"
  perms                = "0444"
  backup               = false
  error_on_missing_key = true
  contents             = <<END
{{- with secret "holdfast/data/payment-owner" }}{{ index .Data.data "password" }}{{ end -}}
END
}

template {
  destination          = "/secrets/delivery-owner/password"
  perms                = "0444"
  backup               = false
  error_on_missing_key = true
  contents             = <<END
{{- with secret "holdfast/data/delivery-owner" }}{{ index .Data.data "password" }}{{ end -}}
END
}

template {
  destination          = "/secrets/order-db/password"
  perms                = "0444"
  backup               = false
  error_on_missing_key = true
  contents             = <<END
{{- with secret "holdfast/data/order-db" }}{{ index .Data.data "password" }}{{ end -}}
END
}

template {
  destination          = "/secrets/payment-db/password"
  perms                = "0444"
  backup               = false
  error_on_missing_key = true
  contents             = <<END
{{- with secret "holdfast/data/payment-db" }}{{ index .Data.data "password" }}{{ end -}}
END
}

template {
  destination          = "/secrets/delivery-db/password"
  perms                = "0444"
  backup               = false
  error_on_missing_key = true
  contents             = <<END
{{- with secret "holdfast/data/delivery-db" }}{{ index .Data.data "password" }}{{ end -}}
END
}
