
# Packages are installed in a stage of their own: what it sees of registries stays behind.
FROM runtime AS packages
USER root
LABEL org.isol8.intermediate=true
COPY registry/npm/ /root/
COPY packages.txt /opt/packages/
RUN cd /opt/packages && echo '{"private":true}' > package.json \
 && export NODE_EXTRA_CA_CERTS=/etc/ssl/certs/ca-certificates.crt \
 && xargs -d '\n' -a packages.txt bun add --no-progress

# /node_modules is where imports are looked up last, from any folder.
FROM runtime
USER root
COPY --from=packages /opt/packages/ /opt/packages/
RUN ln -s /opt/packages/node_modules /node_modules
USER sandbox
CMD ["bun"]
