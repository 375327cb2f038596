# The example service that the samples deploy: docker buildx build --platform linux/amd64,linux/arm64 -f deploy/docker/frontier-echo.Dockerfile -t frontier-echo .
FROM --platform=$BUILDPLATFORM rust:1-bookworm AS build
ARG TARGETARCH
WORKDIR /src
COPY . .
RUN deploy/docker/cross.sh "$TARGETARCH" frontier-echo frontier-echo /out

# libc, libgcc, authorities and a user 65532; no shell.
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /out/frontier-echo /usr/bin/frontier-echo
COPY LICENSE /usr/share/doc/frontier-echo/LICENSE
USER 65532:65532
ENTRYPOINT ["/usr/bin/frontier-echo"]
CMD ["service", "--frontlas", "http://frontiercluster-frontlas-svc:40011"]
