# The operator: docker buildx build --platform linux/amd64,linux/arm64 -f deploy/docker/frontier-operator.Dockerfile -t frontier-operator .
FROM --platform=$BUILDPLATFORM rust:1-bookworm AS build
ARG TARGETARCH
WORKDIR /src
COPY . .
RUN deploy/docker/cross.sh "$TARGETARCH" frontier-operator frontier-operator /out

# libc, libgcc, authorities and a user 65532; no shell.
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /out/frontier-operator /manager
COPY LICENSE /usr/share/doc/frontier-operator/LICENSE
USER 65532:65532
EXPOSE 8080 8081
ENTRYPOINT ["/manager"]
