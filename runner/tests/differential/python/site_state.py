import site
import sys
print(site.ENABLE_USER_SITE, site.USER_BASE, site.USER_SITE, site.PREFIXES)
print(sys.modules.get("sitecustomize"), sys.modules.get("usercustomize"))
print(quit, exit, copyright is not None, help)
