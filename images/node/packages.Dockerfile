
# Packages are installed in a stage of their own: what it sees of registries stays behind.
FROM runtime AS packages
USER root
LABEL org.isol8.intermediate=true
COPY registry/npm/ /root/
COPY packages.txt /opt/packages/
RUN cd /opt/packages && echo '{"private":true}' > package.json \
 && xargs -d '\n' -a packages.txt npm install --no-audit --no-fund --loglevel=error \
      --no-update-notifier --

# /node_modules is where both require and import look last, from any folder.
FROM runtime
USER root
COPY --from=packages /opt/packages/ /opt/packages/
RUN ln -s /opt/packages/node_modules /node_modules \
 && if [ -d /node_modules/.bin ]; then \
      find /opt/packages/node_modules/.bin -mindepth 1 -exec ln -sf -t /usr/local/bin {} +; \
    fi
USER sandbox
CMD ["node"]
