# OpenBao with what it reads: nothing of the host is mounted. Context: deploy.
ARG OPENBAO_IMAGE=openbao/openbao:2.6
FROM ${OPENBAO_IMAGE}
# An empty volume takes owner and mode of the folder that it covers. Databases and Redis read their password as users of their own.
USER 0:0
RUN for folder in vault/data approle approle/gateway approle/order approle/payment approle/delivery approle/operator approle/databases \
        pki operator; do mkdir -p "/$folder" && chmod 0700 "/$folder"; done \
    && for folder in secrets secrets/order-owner secrets/payment-owner secrets/delivery-owner \
        secrets/order-db secrets/payment-db secrets/delivery-db; do mkdir -p "/$folder" && chmod 0755 "/$folder"; done \
    && chown -R 65532:65532 /vault /approle /pki /operator /secrets
COPY vault/ /vault/
COPY compose/vault-server.sh compose/vault-as-root.sh compose/vault-prepare.sh /vault/
USER 65532:65532
