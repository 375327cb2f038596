# The gateway: docker buildx build --platform linux/amd64,linux/arm64 -f deploy/docker/frontier.Dockerfile -t frontier .
FROM --platform=$BUILDPLATFORM rust:1-bookworm AS build
ARG TARGETARCH
WORKDIR /src
COPY . .
RUN deploy/docker/cross.sh "$TARGETARCH" frontier-gateway frontier /out

# libc, libgcc, authorities and a user 65532; no shell.
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /out/frontier /usr/bin/frontier
COPY deploy/docker/frontier.yaml /usr/conf/frontier.yaml
COPY LICENSE /usr/share/doc/frontier/LICENSE
USER 65532:65532
EXPOSE 30010 30011 30012 9091
ENTRYPOINT ["/usr/bin/frontier"]
CMD ["--config", "/usr/conf/frontier.yaml"]
