
# Packages are cached in a stage of their own: what it sees of registries stays behind.
FROM runtime AS packages
USER root
LABEL org.isol8.intermediate=true
COPY registry/npm/ /root/
COPY packages.txt /tmp/
RUN export DENO_DIR=/usr/local/share/deno DENO_TLS_CA_STORE=system \
 && xargs -d '\n' -a /tmp/packages.txt deno cache --quiet

FROM runtime
COPY --from=packages /usr/local/share/deno/ /usr/local/share/deno/
ENV DENO_DIR=/usr/local/share/deno
CMD ["deno"]
