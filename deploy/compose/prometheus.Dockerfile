# Prometheus with what it reads: nothing of the host is mounted. Context: deploy.
ARG PROMETHEUS_IMAGE=prom/prometheus:v3.5.0
FROM ${PROMETHEUS_IMAGE}
COPY compose/prometheus.yml /etc/prometheus/prometheus.yml
COPY prometheus/*.rules.yml /etc/prometheus/rules/
