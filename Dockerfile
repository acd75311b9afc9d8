# Two images without a shell, for users without rights: the host with its plugins, and the plugins alone, for machines that
# run expert groups for a host elsewhere. scripts/image.sh says which files are in them, here and where no engine is at hand.
#
#   docker build -t pimoe --build-arg VERSION="$(git describe --tags --always)" .
#   docker build -t pimoe-plugins --target plugins .
#   docker run -p 8080:8080 -e PIMOE_API_KEY=... -v pimoe:/data --read-only --cap-drop ALL pimoe
#
# The server listens on all addresses of the container, so it asks for an API key and does not start without one.

FROM golang:1.26-bookworm AS build
ARG VERSION=unknown
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN make build VERSION="$VERSION" && scripts/image.sh tree host /image/host && scripts/image.sh tree plugins /image/plugins && mkdir /data

FROM gcr.io/distroless/static-debian12:nonroot AS plugins
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="PiMoE plugins" \
      org.opencontainers.image.description="Experts and routers of PiMoE, for machines that run them for a host elsewhere" \
      org.opencontainers.image.source="https://github.com/pimoe/pimoe" \
      org.opencontainers.image.documentation="https://github.com/pimoe/pimoe/tree/main/docs" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
COPY --from=build /image/plugins/ /
# Where a copy of the host's store is mounted, which may be read-only.
ENV PIMOE_HOME=/data
EXPOSE 7070
USER nonroot:nonroot
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/pimoe-expert-cpu"]

FROM gcr.io/distroless/static-debian12:nonroot AS host
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="PiMoE" \
      org.opencontainers.image.description="Mixture-of-Experts models with every expert in its own process" \
      org.opencontainers.image.source="https://github.com/pimoe/pimoe" \
      org.opencontainers.image.documentation="https://github.com/pimoe/pimoe/tree/main/docs" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
COPY --from=build /image/host/ /
COPY --from=build --chown=nonroot:nonroot /data /data

# The store; imported models and sockets live here, so that the root file system can be read-only.
ENV PIMOE_HOME=/data
ENV PIMOE_SERVER__ADDR=0.0.0.0:8080
ENV PIMOE_LOG__FORMAT=json
VOLUME /data
EXPOSE 8080
USER nonroot:nonroot
STOPSIGNAL SIGTERM

# Ready means that a known question went through every expert process, not that a port is open.
HEALTHCHECK --interval=10s --timeout=6s --start-period=60s --retries=3 CMD ["/usr/local/bin/pimoe", "health"]

ENTRYPOINT ["/usr/local/bin/pimoe"]
CMD ["serve"]
