# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
#
# make unit           unit tests
# make valgrind       unit tests under valgrind
# make tsan           unit tests under ThreadSanitizer (not in make test)
# make integration    a real httpd, real clients, real backends
# make asan           unit and integration tests with ASan and UBSan
# make fuzz           fuzzers with ASan and UBSan, FUZZ_TIME seconds each
# make guard          documentation against code, and what files look like
# make lint           form and static checks
# make test-faults    hundreds of restarts and kills (not in make test)
# make bench          what a request costs (not in make test)
#
# In make test are all but those that say otherwise, and of make asan the part
# that ASAN_PART names. PYTEST takes more options: make integration
# PYTEST="-k trap -x".

JOBS      ?= 2
FUZZ_TIME ?= 10
PYTEST    ?=
SANITIZE   = -fsanitize=address,undefined -fno-sanitize-recover=undefined
# What of the integration tests make test runs a second time, with ASan.
ASAN_PART ?= t/integration/test_03*.py t/integration/test_05*.py \
             t/integration/test_1*.py t/integration/test_21*.py \
             t/integration/test_3*.py t/integration/test_61*.py

.PHONY: deps deps-demo deps-kafka deps-test deps-bench demo test unit valgrind tsan \
        tsan-unit run-fuzz asan asan-build asan-unit asan-integration integration fuzz fuzz-build \
        guard lint bench test-faults

deps:
	scripts/deps.sh build
deps-demo deps-kafka deps-test deps-bench: deps-%:
	scripts/deps.sh $*

# A make of its own, since this one asked apr-1-config before it was there.
demo: deps-demo $(if $(filter 1,$(KAFKA)),deps-kafka)
	$(MAKE) all
	KAFKA=$(KAFKA) scripts/demo

test: deps-test
	$(MAKE) all
	@$(PYTHON) t/run.py

# cmocka writes to standard error, which is where nobody counts.
run_units = @failed=0; for t in $(1); do $(2) $$t 2>&1 || failed=1; done; \
	exit $$failed

unit: $(UNIT)
	$(call run_units,$(UNIT),)

valgrind: $(UNIT)
	$(call run_units,$(UNIT),valgrind -q --error-exitcode=99 \
	  --leak-check=full --errors-for-leak-kinds=definite)

# TSan of gcc 12 wants its address space where it expects it, and gives up on
# tests that fork unless it is told not to.
tsan:
	$(MAKE) B=build/tsan FLAVOUR=-fsanitize=thread tsan-unit
tsan-unit: $(UNIT)
	$(call run_units,$(UNIT),\
	  TSAN_OPTIONS="halt_on_error=1 die_after_fork=0 \
	  suppressions=$(CURDIR)/t/tsan.supp" setarch -R)

run_pytest = PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=t/guard \
	$(PYTHON) -m pytest -p no_skips -p no:cacheprovider -q -n $(JOBS)

RACES = $(patsubst t/races/%.c,$(B)/races/%,$(wildcard t/races/race_*.c))

$(B)/races:
	mkdir -p $@
$(B)/races/%: t/races/%.c $(LIB) $(HEADERS) | $(B)/races
	$(CC) $(ALL_CFLAGS) -o $@ $< $(LIB) $(LIBS) $(APR_LIBS)

integration: all $(RACES)
	$(run_pytest) $(PYTEST) t/integration

asan_make  = $(MAKE) B=build/asan FLAVOUR="$(SANITIZE)"
asan_env   = UE_MODULE=$(CURDIR)/build/asan/.libs/mod_usage_events.so \
	USAGECTL=$(CURDIR)/build/asan/usagectl.bin \
	UE_PRELOAD=$$($(CC) -print-file-name=libasan.so)

asan: asan-build asan-unit
	$(MAKE) asan-integration ASAN_PART=t/integration
asan-build:
	mkdir -p build/asan
	$(asan_make) all
asan-unit:
	$(asan_make) unit
asan-integration: asan-build
	$(asan_env) $(run_pytest) $(PYTEST) $(ASAN_PART)

# --- fuzzers -----------------------------------------------------------------

FUZZERS = $(patsubst t/fuzz/%.c,$(B)/fuzz/%,$(wildcard t/fuzz/fuzz_*.c))

$(B)/fuzz/%: t/fuzz/%.c $(LIB) $(HEADERS) | $(B)/fuzz
	$(CC) $(ALL_CFLAGS) -fsanitize=fuzzer -o $@ $< $(LIB) $(LIBS) $(APR_LIBS)

fuzz:
	$(MAKE) B=build/fuzz CC=clang WERROR= \
	  FLAVOUR="$(SANITIZE) -fsanitize=fuzzer-no-link" run-fuzz
run-fuzz: $(FUZZERS)
	@t/run_fuzz.sh $(FUZZ_TIME) $(JOBS) $(FUZZERS)

# --- the rest ----------------------------------------------------------------

guard:
	@PYTHONDONTWRITEBYTECODE=1 $(PYTHON) t/guard/guard.py

lint:
	@scripts/lint

test-faults: all
	UE_FAULTS=1 $(run_pytest) $(PYTEST) \
	  t/integration/test_040_restarts.py t/integration/test_430*.py \
	  t/integration/test_44*.py t/integration/test_48*.py \
	  t/integration/test_490*.py t/integration/test_500*.py \
	  t/integration/test_5[123][05]_pg*.py

$(B)/bench:
	mkdir -p $@
$(B)/bench/%: bench/%.c $(LIB) $(HEADERS) | $(B)/bench
	$(CC) $(ALL_CFLAGS) -o $@ $< $(LIB) $(LIBS) $(APR_LIBS)

bench: deps-bench
	$(MAKE) all
	bench/instructions
	bench/keycache
	bench/limits
	bench/throughput
	bench/latency
	bench/spool
	bench/kafka
	bench/kafka-latency
	bench/keys
