
# Packages are installed in a stage of their own: what it sees of registries stays behind.
FROM runtime AS packages
USER root
LABEL org.isol8.intermediate=true
COPY registry/pip/ packages.txt /etc/
RUN python3 -m pip install --no-cache-dir --no-input --disable-pip-version-check \
      --root-user-action=ignore --break-system-packages --requirement /etc/packages.txt

FROM runtime
COPY --from=packages /usr/local/ /usr/local/
CMD ["python3"]
