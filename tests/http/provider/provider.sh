#!/bin/sh
# Tests the service with an identity provider that is not ours, oidc-provider of npm: `provider.sh PYTHON`.
# It needs Node.js 20 or newer with npm, and installs the package into a folder of its own.
set -eu

python=${1:-python3}
command -v npm > /dev/null || { echo "skipped: npm is not on this machine"; exit 0; }

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
npm install --silent --no-audit --no-fund --prefix "$folder" oidc-provider@9
NODE_MODULES="$folder/node_modules" "$python" -m pytest -q tests/http/provider
