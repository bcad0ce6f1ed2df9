#!/bin/sh
# Generates TypeScript clients from the OpenAPI document, type-checks them, and lints the document: `typescript.sh PYTHON`.
# It needs Node.js 20 or newer with npm, and installs the generators into a folder of its own.
set -eu

python=${1:-python3}
command -v npm > /dev/null || { echo "skipped: npm is not on this machine"; exit 0; }

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$python" - "$folder/openapi.json" <<'PYTHON'
import json
import sys

from service.app import create_app
from service.settings import Settings

settings = Settings(database_url="postgresql://", stripe_api_key="sk_test_x", stripe_webhook_secret=("x",))
with open(sys.argv[1], "w") as file:
    json.dump(create_app(settings).openapi(), file)
PYTHON

cd "$folder"
echo '{"private": true, "type": "commonjs"}' > package.json
npm install --silent --no-audit --no-fund \
    openapi-typescript@7 @hey-api/openapi-ts@0.95 orval@7 @stoplight/spectral-cli@6 @redocly/cli@2 typescript@5

npx openapi-typescript openapi.json --output openapi_typescript.ts
npx openapi-ts --input openapi.json --output hey_api
cat > orval.config.js <<'ORVAL'
module.exports = { shop: { input: "openapi.json", output: { target: "orval/shop.ts", schemas: "orval/model", client: "fetch" } } };
ORVAL
npx orval --config orval.config.js

# A status is a union of literals: another text is an error.
cat > check.ts <<'TYPESCRIPT'
import type { components } from "./openapi_typescript";
import type { Order } from "./hey_api";
import type { Order as OrvalOrder } from "./orval/model";

type Statuses = "PENDING_PAYMENT" | "PAID" | "FULFILLED" | "CANCELLED";
type Same<A, B> = [A] extends [B] ? ([B] extends [A] ? true : never) : never;
export const first: Same<components["schemas"]["Order"]["status"], Statuses> = true;
export const second: Same<Order["status"], Statuses> = true;
export const third: Same<OrvalOrder["status"], Statuses> = true;
TYPESCRIPT
cat > tsconfig.json <<'TSCONFIG'
{
  "compilerOptions": {
    "strict": true, "noEmit": true, "target": "es2022", "module": "esnext", "moduleResolution": "bundler",
    "lib": ["es2022", "dom", "dom.iterable"], "skipLibCheck": true
  },
  "include": ["*.ts", "hey_api/**/*.ts", "orval/**/*.ts"]
}
TSCONFIG
npx tsc --project tsconfig.json

echo 'extends: ["spectral:oas"]' > .spectral.yaml
npx spectral lint openapi.json --ruleset .spectral.yaml --fail-severity error
npx redocly lint openapi.json
echo "TypeScript clients: generated, checked, and the document linted"
