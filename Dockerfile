# An image of the service, without a shell, a package manager or a secret. A container gets the addresses of its
# database and its secrets manager from APP_ variables, or from a folder mounted over /srv/config.
#
#   docker build --tag service .
#   docker run --rm service check       runs any command of the service; without one, it serves

# A profile of Cargo: `dev` compiles faster.
ARG PROFILE=release

FROM docker.io/library/rust:1.95-bookworm@sha256:6258907abe69656e41cd992e0b705cdcfabcbbe3db374f92ed2d47121282d4a1 AS build
ARG PROFILE
WORKDIR /build

# These write into the binary what it is made of, and make a list of that for people. They compile faster without
# optimization, and are not in the service's image.
RUN cargo install --locked --debug --target-dir target --root /usr/local cargo-auditable@0.7.7 auditable2cdx@0.1.0

# Dependencies are a layer of their own, which is built again only when a manifest changes. Cargo needs sources: empty
# ones are enough.
COPY Cargo.toml Cargo.lock ./
RUN mkdir src && touch src/lib.rs && echo 'fn main() {}' > src/main.rs
# project
# COPY dev dev
# end
# vendored
COPY vestibule/Cargo.toml vestibule/
COPY vestibule/derive/Cargo.toml vestibule/derive/
COPY devstack/Cargo.toml devstack/
RUN mkdir --parents vestibule/src vestibule/derive/src devstack/src \
    && touch vestibule/src/lib.rs vestibule/derive/src/lib.rs devstack/src/lib.rs
# end
# git
# # Only this step reads the framework's repository. The secret is for a private one: README.md, "In a container".
# RUN --mount=type=secret,id=gitconfig,target=/root/.gitconfig CARGO_NET_GIT_FETCH_WITH_CLI=true cargo fetch --locked
# end
RUN cargo auditable install --locked --profile "$PROFILE" --path . --root /stub

COPY build.rs ./
COPY migrations migrations
# vendored
COPY vestibule vestibule
# end
COPY src src
# Cargo compares the times of files, and these can be older than the empty ones. The link `service` leads to the only
# binary, whose name is the package's. If you add a second binary, name the right one here.
RUN find . -path ./target -prune -o -name '*.rs' -exec touch {} + \
    && cargo auditable install --locked --profile "$PROFILE" --path . --root /made \
    && cd /made/bin && { test -e service || ln --symbolic * service; } \
    && mkdir ../sbom && auditable2cdx service > ../sbom/service.cdx.json
COPY config /made/config
RUN chmod --recursive a+rX /made

# The local stack, for compose.yaml. Nothing of these two stages is in the service's image.
FROM build AS tools
ARG PROFILE
# vendored
COPY devstack devstack
RUN find devstack -name '*.rs' -exec touch {} + \
    && cargo install --locked --profile "$PROFILE" --path devstack --root /tools
# end
# git
# RUN cargo install --locked --profile "$PROFILE" --path dev --root /tools && mv /tools/bin/dev /tools/bin/devstack
# end

FROM docker.io/library/python:3.13-slim-bookworm@sha256:67a1e1f215ccda113cfc024e8639049257e88f273898f595b61476d128d387e8 AS stack
# The stack looks for config/ in the current folder. It keeps what it installs in CARGO_TARGET_DIR.
WORKDIR /build
ENV CARGO_TARGET_DIR=/home/stack
RUN useradd --create-home --uid 65532 stack
USER 65532:65532
COPY --from=tools /tools/bin /made/bin /usr/local/bin/
COPY --from=tools /made/config config
RUN devstack stack --install
HEALTHCHECK --interval=2s --start-period=60s CMD ["devstack", "exec", "check"]
ENTRYPOINT ["devstack", "stack", "/usr/local/bin/service"]

FROM gcr.io/distroless/cc-debian12:nonroot@sha256:9dac0a79194e45a7da0158a9c6da57b217585af0786db3845d1f0ec1a0dd182f
WORKDIR /srv
COPY --from=build /made/bin /usr/local/bin
COPY --from=build /made/config config
COPY --from=build /made/sbom /usr/local/share/sbom
ENV APP_PROFILE=production
USER 65532:65532
EXPOSE 8080 9090
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=7s --start-period=45s CMD ["/usr/local/bin/service", "health"]
ENTRYPOINT ["/usr/local/bin/service"]
