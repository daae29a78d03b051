# Grafana with its source of data. Context: deploy.
ARG GRAFANA_IMAGE=grafana/grafana:12.1.1
FROM ${GRAFANA_IMAGE}
COPY compose/grafana-datasources.yml /etc/grafana/provisioning/datasources/holdfast.yml
