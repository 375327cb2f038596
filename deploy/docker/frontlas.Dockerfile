# The registry of a cluster: docker buildx build --platform linux/amd64,linux/arm64 -f deploy/docker/frontlas.Dockerfile -t frontlas .
FROM --platform=$BUILDPLATFORM rust:1-bookworm AS build
ARG TARGETARCH
WORKDIR /src
COPY . .
RUN deploy/docker/cross.sh "$TARGETARCH" frontier-atlas frontlas /out

# libc, libgcc, authorities and a user 65532; no shell.
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /out/frontlas /usr/bin/frontlas
COPY deploy/docker/frontlas.yaml /usr/conf/frontlas.yaml
COPY LICENSE /usr/share/doc/frontlas/LICENSE
USER 65532:65532
EXPOSE 40011 40012 9092
ENTRYPOINT ["/usr/bin/frontlas"]
CMD ["--config", "/usr/conf/frontlas.yaml"]
