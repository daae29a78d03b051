# Images of the services and of the command. One target each: gateway, order, payment, delivery, console, cli.
#
#   docker build --target gateway -t holdfast-gateway .
#
# With binaries that were built outside (`cargo build --release`), which takes seconds instead of minutes:
#
#   docker build --target gateway --build-arg BINARIES=prebuilt -t holdfast-gateway .
#
# With --build-arg KAFKA_TLS=on the programs have TLS to Kafka (docs/kafka.md), and the images the OpenSSL of Debian that it takes. With binaries
# that were built outside, its libraries are in the folder openssl beside them.
#
# VERSION and REVISION are labels of the image, for whoever finds it: --build-arg REVISION=$(git rev-parse HEAD)
#
# The runtime images have the program, the libraries that it is linked against, and nothing else: no shell, no package manager. They run as
# user 65532 with a read-only root.

ARG BINARIES=built

FROM rust:1.95-bookworm AS built
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
ARG KAFKA_TLS=off
WORKDIR /src
COPY . .
# The caches outlive the build, so the programs are copied out of them.
RUN --mount=type=cache,id=holdfast-cargo,target=/usr/local/cargo/registry --mount=type=cache,id=holdfast-target,target=/src/target <<'END'
set -eu
if [ "$KAFKA_TLS" = on ]; then
    set -- --features holdfast/kafka-tls,holdfast-order/kafka-tls,holdfast-payment/kafka-tls,holdfast-delivery/kafka-tls,holdfast-console/kafka-tls
fi
cargo build --profile dist --locked --bins --workspace --exclude holdfast-e2e --exclude holdfast-simulation --exclude holdfast-testkit "$@"
mkdir -p /out/openssl
ldd target/dist/holdfast | awk '/lib(ssl|crypto)\./ { print $3 }' | xargs --no-run-if-empty cp --dereference --target-directory=/out/openssl
for program in holdfast holdfast-gateway holdfast-order holdfast-payment holdfast-delivery holdfast-console; do
    cp "target/dist/$program" /out/
done
END

FROM debian:bookworm-slim AS prebuilt
ARG PREBUILT=target/release
COPY ${PREBUILT}/holdfast ${PREBUILT}/holdfast-gateway ${PREBUILT}/holdfast-order ${PREBUILT}/holdfast-payment \
    ${PREBUILT}/holdfast-delivery ${PREBUILT}/holdfast-console /out/
# Only there if they are needed: a pattern may find nothing.
COPY ${PREBUILT}/openss[l] /out/openssl/

FROM ${BINARIES} AS binaries

# What the programs need beside themselves, in a tree of its own. All of them are linked against the same few libraries.
FROM debian:bookworm-slim AS root
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
COPY --from=binaries /out /out
RUN <<'END'
set -eu
mkdir -p /root-of-image/etc /out/openssl
find /out/openssl -type f -exec cp --target-directory=/usr/lib {} +
for program in /out/holdfast*; do
    ldd "$program" | awk '/=> \// { print $3 } /^[[:space:]]*\/.*ld-/ { print $1 }'
done | sort -u | xargs cp --dereference --parents --target-directory=/root-of-image
echo 'holdfast:x:65532:65532::/nonexistent:/sbin/nologin' > /root-of-image/etc/passwd
echo 'holdfast:x:65532:' > /root-of-image/etc/group
# An empty volume takes owner and mode of the folder that it covers.
for folder in pki pki/gateway pki/order pki/payment pki/delivery pki/operator pki/console pki/order-db pki/payment-db pki/delivery-db \
    pki/kafka; do
    install -d -o 65532 -g 65532 -m 0700 "/volumes/$folder"
done
# PostgreSQL and Redis read their password as users of their own.
for folder in secrets secrets/order secrets/payment secrets/delivery secrets/order-owner secrets/payment-owner secrets/delivery-owner \
    secrets/order-db secrets/payment-db secrets/delivery-db secrets/redis; do
    install -d -o 65532 -g 65532 -m 0755 "/volumes/$folder"
done
END

FROM scratch AS runtime
ARG VERSION=unknown
ARG REVISION=unknown
COPY --from=root /root-of-image/ /
USER 65532:65532
LABEL org.opencontainers.image.title="Holdfast" \
    org.opencontainers.image.description="Event-driven order, payment and delivery services that keep every promise" \
    org.opencontainers.image.licenses="Apache-2.0 OR MIT" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}"

FROM runtime AS gateway
COPY --from=binaries /out/holdfast-gateway /holdfast-gateway
HEALTHCHECK --interval=5s --timeout=3s --start-period=60s --start-interval=0.5s CMD ["/holdfast-gateway", "--ready"]
ENTRYPOINT ["/holdfast-gateway"]

FROM runtime AS order
COPY --from=binaries /out/holdfast-order /holdfast-order
HEALTHCHECK --interval=5s --timeout=3s --start-period=60s --start-interval=0.5s CMD ["/holdfast-order", "--ready"]
ENTRYPOINT ["/holdfast-order"]

FROM runtime AS payment
COPY --from=binaries /out/holdfast-payment /holdfast-payment
HEALTHCHECK --interval=5s --timeout=3s --start-period=60s --start-interval=0.5s CMD ["/holdfast-payment", "--ready"]
ENTRYPOINT ["/holdfast-payment"]

FROM runtime AS delivery
COPY --from=binaries /out/holdfast-delivery /holdfast-delivery
HEALTHCHECK --interval=5s --timeout=3s --start-period=60s --start-interval=0.5s CMD ["/holdfast-delivery", "--ready"]
ENTRYPOINT ["/holdfast-delivery"]

# `/holdfast-console ticket` beside it lets a browser in.
FROM runtime AS console
COPY --from=binaries /out/holdfast-console /holdfast-console
HEALTHCHECK --interval=5s --timeout=3s --start-period=60s --start-interval=0.5s CMD ["/holdfast-console", "--ready"]
ENTRYPOINT ["/holdfast-console"]

FROM runtime AS cli
COPY --from=root --chown=65532:65532 /volumes/ /
COPY --from=binaries /out/holdfast /holdfast
ENTRYPOINT ["/holdfast"]
