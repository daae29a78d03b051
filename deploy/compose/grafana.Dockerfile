# Grafana with its source of data. Context: deploy.
ARG GRAFANA_IMAGE=grafana/grafana:12.1.1
FROM ${GRAFANA_IMAGE}
COPY compose/grafana-datasources.yml /etc/grafana/provisioning/datasources/holdfast.yml
COPY compose/grafana-dashboards.yml /etc/grafana/provisioning/dashboards/holdfast.yml
COPY grafana/*.json /etc/grafana/holdfast/
