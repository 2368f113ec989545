
# Packages of the Debian release.
FROM runtime
COPY packages.txt /tmp/
RUN export DEBIAN_FRONTEND=noninteractive \
 && apt-get update -qq \
 && xargs -d '\n' -a /tmp/packages.txt apt-get install -qq -y --no-install-recommends -- \
 && apt-get clean \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/ldconfig/* /var/log/* /tmp/packages.txt
CMD ["bash"]
