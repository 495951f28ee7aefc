# Licence: MIT, see LICENSE. © 2026 mod_usage_events contributors.
#
# make                the module (with apxs) and usagectl
# make install        into httpd's module directory, $(bindir) and $(mandir)
# make deps           install what building needs, on Debian
# make demo           a gateway before a small backend, from key to event
# make demo KAFKA=1   the same with a real Kafka, which it fetches and starts
# make test           install what it needs, and run everything that must hold
# make clean          remove what was built
# make help           this list, and the parts of make test

APXS    ?= $(firstword $(wildcard /usr/bin/apxs /usr/local/bin/apxs) apxs)
CC      ?= cc
PYTHON  ?= /usr/bin/python3
prefix  ?= /usr/local
bindir  ?= $(prefix)/bin
mandir  ?= $(prefix)/share/man

# Where a flavour's objects go: build, or build/asan and the like.
B       ?= build
CFLAGS  ?= -O2 -g
# Warnings are errors in CI only, never for those who package this.
WERROR  ?= $(if $(CI),-Werror)
FLAVOUR ?=

APR_FLAGS := $(shell apr-1-config --includes --cppflags 2>/dev/null) \
             $(shell apu-1-config --includes 2>/dev/null)
APR_LIBS  := $(shell apr-1-config --link-ld --libs 2>/dev/null) \
             $(shell apu-1-config --link-ld 2>/dev/null)
PG_FLAGS  := $(addprefix -I,$(shell pg_config --includedir 2>/dev/null))
LIBS       = -lrdkafka -lpq -ljson-c -lcrypto -lz
WARN       = -Wall -Wextra -Wshadow -Wstrict-prototypes \
             -Wmissing-prototypes -Wno-unused-parameter $(WERROR)
ALL_CFLAGS = -std=gnu11 -fPIC $(CFLAGS) $(WARN) $(APR_FLAGS) $(PG_FLAGS) \
             -Isrc $(FLAVOUR)

# Everything that needs no httpd: one library, for the module, usagectl, the
# unit tests and the fuzzers. A backend is in the list or it is not built.
LIB_NAMES  = access apikey crc32c decision endpoint event gcra journal \
             kafka kafka_conf kafka_ledger kafka_option keycache \
             keycache_write keyfile keyfile_check keyfile_time keyfile_write \
             keysnapshot keystore keystore_file keystore_pg \
             keystore_pg_answer keystore_pg_worker ledger limit log metrics \
             pg producer producer_lanes producer_spool producer_streams \
             producer_worker rate shared sink_file sink_kafka siphash slot \
             spool subjects thread uuid
LIB_OBJS   = $(LIB_NAMES:%=$(B)/%.o)
LIB        = $(B)/libusage_events.a
GLUE       = mod_usage_events.c src/config.c src/directives.c src/hooks.c \
             src/process.c src/proxy.c src/status.c
HEADERS    = $(wildcard src/*.h src/usagectl/*.h)
CTL_OBJS   = $(patsubst src/usagectl/%.c,$(B)/usagectl/%.o,\
             $(wildcard src/usagectl/*.c)) $(B)/usagectl/schema_sql.o
UNIT       = $(patsubst t/unit/%.c,$(B)/unit/%,$(wildcard t/unit/test_*.c))

MODULE     = $(if $(filter build,$(B)),.libs,$(B)/.libs)/mod_usage_events.so
USAGECTL   = $(if $(filter build,$(B)),usagectl,$(B)/usagectl.bin)

.PHONY: all module install help clean
all: module $(USAGECTL)
module: $(MODULE)

help:
	@sed -n 's/^# \(make .*\)/\1/p' $(MAKEFILE_LIST)

$(B) $(B)/unit $(B)/usagectl $(B)/fuzz:
	mkdir -p $@

$(B)/%.o: src/%.c $(HEADERS) | $(B)
	$(CC) $(ALL_CFLAGS) -c $< -o $@

$(LIB): $(LIB_OBJS)
	$(AR) rcs $@ $^

# apxs compiles beside the sources; libtool leaves the module in .libs. Our own
# functions stay inside it, so that they can't meet another module's.
comma := ,
apxs_warn = $(if $(WERROR),-Wc$(comma)-Werror)
apxs_flavour = $(foreach f,$(FLAVOUR),-Wc$(comma)$(f) -Wl$(comma)$(f))
$(MODULE): $(GLUE) $(LIB) $(HEADERS)
	$(APXS) -c -o $(if $(filter build,$(B)),,$(B)/)mod_usage_events.la \
	  -Wc,-std=gnu11 -Wc,-Wall -Wc,-Wextra -Wc,-Wno-unused-parameter \
	  $(apxs_warn) $(apxs_flavour) -Isrc \
	  -Wl,-Wl$(comma)--exclude-libs$(comma)ALL $(GLUE) $(LIB) $(LIBS)

$(B)/usagectl/%.o: src/usagectl/%.c $(HEADERS) | $(B)/usagectl
	$(CC) $(ALL_CFLAGS) -c $< -o $@

# The tables that usagectl init-db makes are in it, line by line.
$(B)/usagectl/schema_sql.c: conf/schema.sql | $(B)/usagectl
	{ echo '#include "usagectl/db.h"'; echo 'const char ue_ctl_schema[] ='; \
	  sed -e 's/[\\"]/\\&/g' -e 's/.*/    "&\\n"/' $<; echo '    ;'; } >$@

$(B)/usagectl/schema_sql.o: $(B)/usagectl/schema_sql.c $(HEADERS)
	$(CC) $(ALL_CFLAGS) -c $< -o $@

$(USAGECTL): $(CTL_OBJS) $(LIB)
	$(CC) $(FLAVOUR) $(LDFLAGS) -o $@ $^ $(LIBS) $(APR_LIBS)

install: all
	install -d $(DESTDIR)$$($(APXS) -q LIBEXECDIR)
	$(APXS) -i -S LIBEXECDIR=$(DESTDIR)$$($(APXS) -q LIBEXECDIR) \
	  -n usage_events mod_usage_events.la
	install -d $(DESTDIR)$(bindir)
	install -m 0755 usagectl $(DESTDIR)$(bindir)/usagectl
	install -d $(DESTDIR)$(mandir)/man1
	install -m 0644 docs/usagectl.1 $(DESTDIR)$(mandir)/man1/usagectl.1

$(B)/unit/%: t/unit/%.c $(LIB) $(HEADERS) $(wildcard t/unit/*.h) | $(B)/unit
	$(CC) $(ALL_CFLAGS) -o $@ $< $(LIB) -lcmocka $(LIBS) $(APR_LIBS)

clean:
	rm -rf build usagectl .libs src/.libs src/*.o src/*.lo src/*.slo \
	  *.o *.lo *.slo *.la

include t/tests.mk
