# One makefile for the whole tree; `make help` lists the targets. Quiet unless V=1; everything made lands in build/.
#
#   CC=clang                       the other compiler
#   SANITIZE=address,undefined     build/asan;  SANITIZE=thread  build/tsan  (each with programs and tests of its own)
#   Build options (DEBUG, LTO, NATIVE_ARCH) are Kconfig's: `make menuconfig`.
#
# Sources are found by wildcard. Objects go to $(B)/obj, generated code to $(B)/gen.

VERSION := 0.1.0
PREFIX ?= /usr/local
SYSCONFDIR ?= /etc
DESTDIR ?=
# Fuzzing time of each target for `make fuzz`, and the most that one input may take, in seconds of the clock on the wall
TIME ?= 60
UNIT_TIME ?= 10
PYTHON := /usr/bin/python3
ifneq ($(filter default undefined,$(origin CC)),)
CC := gcc
endif

.DEFAULT_GOAL := all
.SUFFIXES:
.SECONDARY:
.DELETE_ON_ERROR:
.PHONY: FORCE
MAKEFLAGS += --no-builtin-rules --no-builtin-variables --no-print-directory
ifeq ($(MAKELEVEL)$(filter -j%,$(MAKEFLAGS)),0)
MAKEFLAGS += -j$(shell nproc)
endif
ifeq ($(V),1)
Q :=
say := @:
else
Q := @
say := @printf '  %-5s %s\n'
endif

# ---- variants ----------------------------------------------------------------------------------------------------------------

SANITIZE ?=
variant-address,undefined := asan
variant-undefined,address := asan
variant-address := asan
variant-thread := tsan
variant-fuzzer := fuzz
variant-coverage := coverage
ifeq ($(SANITIZE),)
B := build
else
B := build/$(or $(variant-$(SANITIZE)),$(subst $(comma),-,$(SANITIZE)))
endif
G := $(B)/gen
O := $(B)/obj
comma := ,

# ---- flags -------------------------------------------------------------------------------------------------------------------

# Goals that compile read the build options; the others must work where nothing is installed yet.
BARE_GOALS := help clean deps deps-% run test defconfig menuconfig fuzz fuzz-coverage bench bench-queues bench-server-queues bench-idle uninstall deb check-service check-numa python
GOALS := $(or $(MAKECMDGOALS),all)
ifneq ($(filter-out $(BARE_GOALS),$(GOALS)),)
include $(G)/config.mk
PACKAGES := liburing libprotobuf-c numa ck libnghttp2 libsystemd zlib libcrypto libssl
PKG_CFLAGS := $(shell pkg-config --cflags $(PACKAGES))
PKG_LIBS := $(shell pkg-config --libs $(PACKAGES))
ifeq ($(PKG_LIBS),)
$(error Packages are missing that the build needs; `make deps` installs them)
endif
ARCH := $(shell $(CC) -dumpmachine | cut -d- -f1)
endif

CPPFLAGS += -D_GNU_SOURCE -I. -I$(G) $(PKG_CFLAGS)
CSTD := -std=gnu11
WARN := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wold-style-definition -Wpointer-arith -Wwrite-strings \
	-Wvla -Wundef -Wformat=2 -Werror=format-security -Wimplicit-fallthrough -Wno-unused-parameter -Wno-missing-field-initializers -Wno-sign-compare
GEN_WARN := -w
# ThreadSanitizer does not model fences. Ours order flags that say who sleeps; the data itself goes through acquire and release
ifneq ($(findstring thread,$(SANITIZE)),)
WARN += $(if $(findstring clang,$(CC)),,-Wno-tsan)
endif
# cmocka does not say that a failed assertion does not return
TEST_WARN := -Wno-maybe-uninitialized -Wno-unknown-warning-option
HARDEN := -fstack-protector-strong -fstack-clash-protection -fPIE
LDHARDEN := -pie -Wl,-z,relro,-z,now
ifeq ($(ARCH),x86_64)
HARDEN += -fcf-protection
endif
ifeq ($(ARCH),aarch64)
HARDEN += -mbranch-protection=standard
endif
OPT := $(if $(CONFIG_DEBUG),-Og,-O2 -DNDEBUG)
AR := ar
ifneq ($(CONFIG_NATIVE_ARCH),)
OPT += -march=native
endif
ifneq ($(CONFIG_FRAME_POINTERS),)
OPT += -fno-omit-frame-pointer
endif
ifneq ($(CONFIG_LTO),)
ifneq ($(findstring clang,$(CC)),)
OPT += -flto=thin
LDOPT := -fuse-ld=lld
AR := llvm-ar
else
OPT += -flto=auto
AR := gcc-ar
endif
endif
ifeq ($(SANITIZE),)
CPPFLAGS += -D_FORTIFY_SOURCE=2
else ifeq ($(SANITIZE),fuzzer)
SAN := -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
OPT := -O2
else ifeq ($(SANITIZE),coverage)
SAN := -fprofile-instr-generate -fcoverage-mapping
OPT := -O1
else
SAN := -fsanitize=$(SANITIZE) -fno-sanitize-recover=all -fno-omit-frame-pointer
# gcc's TSan does not model fences; where one is used, what they order is atomic itself
ifeq ($(SANITIZE)$(findstring clang,$(CC)),thread)
SAN += -Wno-tsan
endif
# Sanitized builds are for finding faults: they keep DCHECK
OPT := -O1
endif
ALL_CFLAGS = $(CSTD) $(OPT) -g -pthread $(WARN) $(HARDEN) $(SAN) $(CFLAGS)
ALL_LDFLAGS = $(OPT) $(LDOPT) -g -pthread $(LDHARDEN) $(SAN) $(LDFLAGS)
LDLIBS := $(PKG_LIBS)
COMPILE = $(CC) $(CPPFLAGS) $(ALL_CFLAGS)
LINK = $(CC) $(ALL_LDFLAGS) -o $@ $(filter %.o %.a,$^) $(LDLIBS)

# ---- sources -----------------------------------------------------------------------------------------------------------------

LIB_SRC := $(filter-out rpc/ordinald.c,$(sort $(wildcard core/base/*.c core/*.c queue/*.c queue/family/*.c rpc/wire/*.c rpc/client/*.c rpc/*.c)))
TOOL_SRC := $(sort $(wildcard tools/*.c))
PROTO := $(sort $(shell find rpc/proto -name '*.proto'))
UNIT_SRC := $(sort $(shell find $(wildcard tests/unit tests/wire tests/sim) -name 'test_*.c' 2>/dev/null))
TEST_LIB_SRC := $(sort $(wildcard tests/support/*.c))
FUZZ_SRC := $(sort $(wildcard tests/fuzz/fuzz_*.c))
FUZZ_LIB_SRC := tests/fuzz/certificate.c tests/fuzz/memory.c
BENCH_SRC := $(sort $(wildcard bench/*.c bench/micro/*.c bench/macro/*.c))
FAMILY_SRC := $(sort $(wildcard queue/family/*.c))
FAMILY_TEST_SRC := $(sort $(wildcard tests/unit/queue/family/conform*.c))
QUEUES_SRC := $(sort $(wildcard bench/queues/*.c)) $(FAMILY_SRC)
OUR_SRC := $(sort $(LIB_SRC) $(wildcard tests/interop/*.c tests/example/*.c tests/host/*.c) $(wildcard rpc/ordinald.c) $(TOOL_SRC) $(UNIT_SRC) $(TEST_LIB_SRC) $(FUZZ_SRC) $(FUZZ_LIB_SRC) $(wildcard tests/fuzz/replay.c) \
	$(BENCH_SRC) $(QUEUES_SRC) $(FAMILY_TEST_SRC))

PB_SRC := $(PROTO:rpc/proto/%.proto=$(G)/%.pb-c.c)
PB_HDR := $(PB_SRC:.c=.h)
GEN_SRC := $(G)/config_table.c $(G)/descriptors.c $(PB_SRC)
LIB_OBJ := $(LIB_SRC:%.c=$(O)/%.o) $(GEN_SRC:$(G)/%.c=$(O)/gen/%.o)
UNIT_BIN := $(UNIT_SRC:%.c=$(B)/%)
REPLAY_BIN := $(FUZZ_SRC:%.c=$(B)/%)
BENCH_BIN := $(BENCH_SRC:%.c=$(B)/%) $(if $(wildcard bench/queues/*.c),$(B)/bench/queues)

# ---- building ----------------------------------------------------------------------------------------------------------------

.PHONY: all programs
all: programs
programs: $(if $(wildcard rpc/ordinald.c),$(B)/ordinald) $(if $(TOOL_SRC),$(B)/ordinal)

$(B)/ordinald: $(O)/rpc/ordinald.o $(if $(findstring thread,$(SANITIZE)),$(O)/queue/family/ck_tsan.o) $(B)/libordinal.a
$(B)/ordinal: $(TOOL_SRC:%.c=$(O)/%.o) $(B)/libordinal.a
$(B)/bench/queues: $(QUEUES_SRC:%.c=$(O)/%.o) $(B)/libordinal.a
$(UNIT_BIN) $(REPLAY_BIN) $(BENCH_SRC:%.c=$(B)/%): $(B)/%: $(O)/%.o
$(filter $(B)/tests/unit/queue/family/%,$(UNIT_BIN)): $(FAMILY_TEST_SRC:%.c=$(O)/%.o) $(FAMILY_SRC:%.c=$(O)/%.o)
$(B)/tests/unit/queue/test_singles $(B)/tests/unit/rpc/test_workers: $(O)/queue/family/ck_tsan.o # what TSan is to be silent about
$(filter $(B)/tests/unit/tools/%,$(UNIT_BIN)): $(filter-out $(O)/tools/ordinal.o,$(TOOL_SRC:%.c=$(O)/%.o))
# Services of tests, on the daemon's own parts (tests/host): gRPC's TestService, and the example of rpc/README.md with its client
INTEROP_PB := $(G)/grpc/testing/test.pb-c
EXAMPLE_PB := $(G)/example/v1/readings.pb-c
TEST_PROGRAMS := $(addprefix $(B)/tests/,interop-server example-server example-client)
$(INTEROP_PB).c $(INTEROP_PB).h: tests/interop/proto/grpc/testing/test.proto
$(EXAMPLE_PB).c $(EXAMPLE_PB).h: tests/example/proto/example/v1/readings.proto
$(foreach p,$(INTEROP_PB) $(EXAMPLE_PB),$p.c $p.h):
	$(say) PROTO $<
	@mkdir -p $(G)
	$(Q)protoc-c --proto_path=$(firstword $(subst /proto/,/proto ,$<)) --c_out=$(G) $<
$(patsubst %.c,$(O)/%.o,$(wildcard tests/interop/*.c)): $(INTEROP_PB).h
$(patsubst %.c,$(O)/%.o,$(wildcard tests/example/*.c)) $(O)/tests/unit/rpc/client/test_stub.o: $(EXAMPLE_PB).h
$(B)/tests/interop-server: $(addprefix $(O)/tests/,interop/interop_server.o interop/svc_test.o host/host.o) $(INTEROP_PB:$(G)/%=$(O)/gen/%).o $(B)/libordinal.a
$(B)/tests/example-server: $(addprefix $(O)/tests/,example/example_server.o example/svc_readings.o host/host.o) $(EXAMPLE_PB:$(G)/%=$(O)/gen/%).o $(B)/libordinal.a
$(B)/tests/example-client: $(O)/tests/example/example_client.o $(EXAMPLE_PB:$(G)/%=$(O)/gen/%).o $(B)/libordinal.a
$(B)/tests/unit/rpc/client/test_stub: $(EXAMPLE_PB:$(G)/%=$(O)/gen/%).o
$(TEST_PROGRAMS):
	$(say) LD $@
	@mkdir -p $(@D)
	$(Q)$(LINK)

$(UNIT_BIN): $(if $(TEST_LIB_SRC),$(B)/libtests.a) $(B)/libordinal.a
$(UNIT_BIN): LDLIBS += -lcmocka
# Their memory may run out: tests/fuzz/memory.h
$(REPLAY_BIN): $(if $(filter fuzzer,$(SANITIZE)),,$(O)/tests/fuzz/replay.o) $(FUZZ_LIB_SRC:%.c=$(O)/%.o) $(B)/libordinal.a
$(REPLAY_BIN): private LDLIBS += $(foreach f,malloc calloc realloc aligned_alloc,-Wl,--wrap=$f)
ifeq ($(SANITIZE),fuzzer)
$(REPLAY_BIN): private SAN := -fsanitize=fuzzer,address,undefined
endif
$(BENCH_BIN): $(B)/libordinal.a

$(B)/ordinald $(B)/ordinal $(UNIT_BIN) $(REPLAY_BIN) $(BENCH_BIN):
	$(say) LD $@
	@mkdir -p $(@D)
	$(Q)$(LINK)

$(B)/libordinal.a: $(LIB_OBJ)
$(B)/libtests.a: $(TEST_LIB_SRC:%.c=$(O)/%.o)
$(B)/libordinal.a $(B)/libtests.a:
	$(say) AR $@
	@rm -f $@
	$(Q)$(AR) rcs $@ $^

$(O)/%.o: %.c $(O)/flags | $(PB_HDR) $(G)/config_gen.h
	$(say) CC $<
	@mkdir -p $(@D)
	$(Q)$(COMPILE) $(if $(filter tests/%,$<),$(TEST_WARN)) -MMD -MP -c -o $@ $<

$(O)/gen/%.o: $(G)/%.c $(O)/flags | $(PB_HDR) $(G)/config_gen.h
	$(say) CC $<
	@mkdir -p $(@D)
	$(Q)$(COMPILE) $(if $(findstring .pb-c,$<),$(GEN_WARN)) -MMD -MP -c -o $@ $<

# Changes when the compiler or its flags do, and then everything is compiled again.
$(O)/flags: FORCE
	@mkdir -p $(@D); echo '$(COMPILE) $(ALL_LDFLAGS)' | cmp -s - $@ || echo '$(COMPILE) $(ALL_LDFLAGS)' > $@

$(G)/%.pb-c.c $(G)/%.pb-c.h: rpc/proto/%.proto
	$(say) PROTO $<
	@mkdir -p $(G)
	$(Q)protoc-c --proto_path=rpc/proto --c_out=$(G) $(<:rpc/proto/%=%)

# What the reflection service tells of them
$(G)/descriptors.c: $(PROTO) tools/build/descriptors.py
	$(say) GEN $@
	@mkdir -p $(G)
	$(Q)protoc-c --proto_path=rpc/proto --include_imports --descriptor_set_out=$(G)/descriptors.pb $(PROTO)
	$(Q)$(PYTHON) tools/build/descriptors.py $(G)/descriptors.pb $@

# The messages for the Python client (tools/python), always in build/.
.PHONY: python
PY_PB := $(patsubst %,build/python/ordinal/v1/%_pb2.py,ordinal stats)
python: $(PY_PB)
build/python/ordinal/v1/%_pb2.py: rpc/proto/ordinal/v1/%.proto
	$(say) PROTO $@
	@mkdir -p build/python
	$(Q)$(PYTHON) -m grpc_tools.protoc -Irpc/proto --python_out=build/python $(<:rpc/proto/%=%)

# A copy of .config, or an empty file, that changes only when .config does (or comes, or goes).
$(G)/dotconfig: FORCE
	@mkdir -p $(@D); if [ -f .config ]; then cat .config; fi | cmp -s - $@ || if [ -f .config ]; then cat .config; fi > $@

$(G)/config.stamp: Kconfig tools/kconfig/gen.py Makefile $(G)/dotconfig
	$(say) GEN $(G)/config_gen.h
	@[ -x $(PYTHON) ] || { echo "Packages are missing that the build needs; \`make deps\` installs them" >&2; exit 1; }
	$(Q)$(PYTHON) tools/kconfig/gen.py build Kconfig .config $(VERSION) $(G)
	@touch $@
$(G)/config.mk $(G)/config_gen.h $(G)/config_table.c: $(G)/config.stamp ;

-include $(shell find $(O) -name '*.d' 2>/dev/null)

# ---- configuration -----------------------------------------------------------------------------------------------------------

.PHONY: defconfig menuconfig
defconfig:
	$(Q)$(PYTHON) tools/kconfig/gen.py defconfig Kconfig .config
	@echo "  wrote .config"
menuconfig:
	$(Q)KCONFIG_CONFIG=.config $(PYTHON) -m menuconfig Kconfig

# ---- packages and running ----------------------------------------------------------------------------------------------------

.PHONY: deps run
deps:
	$(Q)tools/build/packages.sh run test

run:
	$(Q)tools/build/packages.sh run
	$(Q)[ -f .config ] || $(MAKE) defconfig
	$(Q)$(MAKE) programs
	@mkdir -p $(B)/run
	@listen=$$(sed -n 's/^CONFIG_LISTEN="\(.*\)"$$/\1/p' .config); echo; \
	echo "Starting ordinald; stop it with Ctrl-C. Try next, in another terminal:"; \
	echo "    $(B)/ordinal next --server $${listen:-127.0.0.1:50051} --count 3"; echo
	@exec $(B)/ordinald -c .config -o DATA_DIR=$(B)/run/data -o STATS_SOCKET=$(B)/run/stats.sock $(ARGS)

# ---- tests -------------------------------------------------------------------------------------------------------------------

.PHONY: test test-unit test-e2e tests-all
LINT_CHECKS := lint-format lint-include lint-cppcheck lint-tidy
RUN_TESTS := $(PYTHON) tools/build/run_tests.py --build $(B)
test:
	$(Q)tools/build/packages.sh run test
	$(Q)$(MAKE) tests-all
tests-all: programs python $(TEST_PROGRAMS) $(UNIT_BIN) $(REPLAY_BIN)
	$(Q)$(RUN_TESTS) $(if $(SANITIZE),,--lint $(LINT_CHECKS)) --unit $(UNIT_BIN) --fuzz $(REPLAY_BIN) --e2e tests/e2e
test-unit: $(UNIT_BIN) $(REPLAY_BIN)
	$(Q)$(RUN_TESTS) --unit $(UNIT_BIN) --fuzz $(REPLAY_BIN)
test-e2e: programs python $(TEST_PROGRAMS)
	$(Q)$(RUN_TESTS) --e2e tests/e2e

# On a real, booted systemd: the package in a Debian 12 tree, with systemd-nspawn. Only root can. ORDINAL_HEAVY=1: 200 restarts instead of 10.
.PHONY: check-service
check-service:
	$(Q)tools/build/packages.sh run service
	$(Q)$(MAKE) deb
	$(Q)tools/build/service_tree.sh $(B)/service/tree $(B)/ordinal_$(VERSION)_$$(dpkg --print-architecture).deb
	$(Q)$(PYTHON) -m pytest -q -rs -s -p no:cacheprovider tests/e2e/test_service.py

# Debian's stock 6.1 kernel under QEMU, 4 CPUs on 2 NUMA nodes: about a minute.
.PHONY: check-numa
check-numa:
	$(Q)tools/build/packages.sh run numa
	$(Q)$(MAKE) programs
	$(Q)tests/numa/run $(B)

# Each target for TIME seconds, all at once as far as there are CPUs; what it finds is kept in build/fuzz/corpus.
.PHONY: fuzz fuzz-run $(FUZZ_SRC:tests/fuzz/%.c=run-%)
fuzz:
	$(Q)tools/build/packages.sh run fuzz
	$(Q)$(MAKE) SANITIZE=fuzzer CC=clang TIME=$(TIME) fuzz-run
fuzz-run: $(FUZZ_SRC:tests/fuzz/%.c=run-%)
$(FUZZ_SRC:tests/fuzz/%.c=run-%): run-fuzz_%: $(B)/tests/fuzz/fuzz_%
	@mkdir -p $(B)/corpus/$*
	$(say) FUZZ "$* for $(TIME) s"
	$(Q)$< -max_total_time=$(TIME) -timeout=$(UNIT_TIME) -artifact_prefix=$(B)/fuzz_$*- $(B)/corpus/$* $(wildcard tests/fuzz/seeds/$*) \
		> $(B)/fuzz_$*.log 2>&1 || { cat $(B)/fuzz_$*.log; exit 1; }
	@tail -n 1 $(B)/fuzz_$*.log

# How many lines of each parser the seeds and what fuzzing has kept reach; fails below 90%. ARGS=--lines: which lines they do not reach.
.PHONY: fuzz-coverage fuzz-coverage-run
fuzz-coverage:
	$(Q)tools/build/packages.sh run fuzz
	$(Q)$(MAKE) SANITIZE=coverage CC=clang fuzz-coverage-run
fuzz-coverage-run: $(REPLAY_BIN)
	$(Q)tools/build/fuzz_coverage.py --build $(B) --corpus build/fuzz/corpus --seeds tests/fuzz/seeds $(ARGS)

# ---- benchmarks --------------------------------------------------------------------------------------------------------------

.PHONY: bench bench-programs bench-queues bench-server-queues bench-idle
bench:
	$(Q)tools/build/packages.sh run bench
	$(Q)$(MAKE) bench-programs
	$(Q)bench/run $(ARGS)
bench-server-queues:
	$(Q)tools/build/packages.sh run bench
	$(Q)$(MAKE) bench-programs
	$(Q)bench/server-queues $(ARGS)
bench-idle:
	$(Q)tools/build/packages.sh run bench
	$(Q)$(MAKE) bench-programs
	$(Q)bench/idle $(ARGS)
bench-programs: programs $(BENCH_BIN)
bench-queues:
	$(Q)tools/build/packages.sh run bench
	$(Q)$(MAKE) $(B)/bench/queues
	$(Q)$(B)/bench/queues $(ARGS)

# ---- lint --------------------------------------------------------------------------------------------------------------------

.PHONY: lint $(LINT_CHECKS) format
OUR_HDR := $(sort $(shell find $(wildcard core queue rpc tools bench tests) -name '*.h'))
TIDY := $(OUR_SRC:%.c=$(B)/lint/%.tidy)

lint: $(LINT_CHECKS)
lint-format:
	$(say) LINT "clang-format"
	$(Q)clang-format --dry-run -Werror $(OUR_SRC) $(OUR_HDR)
format:
	$(Q)clang-format -i $(OUR_SRC) $(OUR_HDR)
lint-include:
	$(say) LINT "direction of includes"
	$(Q)$(PYTHON) tools/build/include_check.py $(OUR_SRC) $(OUR_HDR)
lint-cppcheck: $(G)/config_gen.h $(PB_HDR)
	$(say) LINT cppcheck
	@mkdir -p $(B)/lint/cppcheck
	$(Q)cppcheck -q -j$(shell nproc) --cppcheck-build-dir=$(B)/lint/cppcheck --error-exitcode=1 --enable=warning,portability \
		--std=c11 --inline-suppr --suppress=*:$(G)/* --suppress=missingIncludeSystem -D_GNU_SOURCE -D__x86_64__ -I. -I$(G) $(OUR_SRC)
lint-tidy: $(TIDY)
# The object stands for the headers that the source includes.
$(TIDY): $(B)/lint/%.tidy: %.c $(O)/%.o .clang-tidy
	$(say) TIDY $<
	@mkdir -p $(@D)
	$(Q)clang-tidy --quiet $< -- -D_GNU_SOURCE -I. -I$(G) $(CSTD) $(WARN) > $@.log 2>&1 || { cat $@.log; exit 1; }
	@touch $@

.PHONY: compile_commands.json
compile_commands.json: $(G)/config_gen.h $(PB_HDR)
	$(Q)$(PYTHON) tools/build/compile_commands.py '$(COMPILE)' $(OUR_SRC)

# ---- installing --------------------------------------------------------------------------------------------------------------

# Debian's package has its units in /lib (make deb says so); by hand they go under PREFIX.
UNITDIR ?= $(PREFIX)/lib/systemd/system
BINDIR := $(PREFIX)/bin
SBINDIR := $(PREFIX)/sbin
LIBDIR := $(PREFIX)/lib
MANDIR := $(PREFIX)/share/man
COMPDIR := $(PREFIX)/share/bash-completion/completions
CONF := $(SYSCONFDIR)/ordinal/ordinal.conf
# mode:what:where, for install and uninstall alike. The configuration is apart: an existing one stays.
INSTALLS := 755:$(B)/ordinald:$(SBINDIR)/ordinald 755:$(B)/ordinal:$(BINDIR)/ordinal 755:tools/tune/ordinal-tune:$(SBINDIR)/ordinal-tune \
	644:$(B)/ordinal-tune.8:$(MANDIR)/man8/ordinal-tune.8 \
	$(foreach p,latency throughput small,644:systemd/profiles/$p.conf:$(PREFIX)/share/ordinal/profiles/$p.conf) \
	644:systemd/access.example:$(PREFIX)/share/ordinal/access.example \
	644:$(B)/ordinald.service:$(UNITDIR)/ordinald.service \
	644:systemd/ordinald.socket:$(UNITDIR)/ordinald.socket 644:systemd/sysusers.conf:$(LIBDIR)/sysusers.d/ordinal.conf 644:systemd/sysctl.conf:$(LIBDIR)/sysctl.d/10-ordinal.conf \
	644:$(B)/ordinald.8:$(MANDIR)/man8/ordinald.8 644:$(B)/ordinal.1:$(MANDIR)/man1/ordinal.1 \
	644:$(B)/ordinal.conf.5:$(MANDIR)/man5/ordinal.conf.5 644:tools/completion/ordinal:$(COMPDIR)/ordinal
.PHONY: install uninstall man deb deb-package
MAN := $(addprefix $(B)/,ordinal.1 ordinal.conf.5 ordinald.8 ordinal-tune.8)
man: $(MAN)
# What every page says of itself: the date of this version, whenever it is built.
$(B)/man.sed: FORCE
	@mkdir -p $(@D); echo "s/@DATE@/$$(tools/build/man_date.sh)/; s/@VERSION@/$(VERSION)/" | cmp -s - $@ || \
		echo "s/@DATE@/$$(tools/build/man_date.sh)/; s/@VERSION@/$(VERSION)/" > $@
$(MAN): $(B)/man.sed
$(B)/ordinald.8: tools/man/ordinald.8
	$(say) GEN $@
	$(Q)sed -f $(B)/man.sed $< > $@
$(B)/ordinal-tune.8: tools/tune/ordinal-tune.8
	$(say) GEN $@
	$(Q)sed -f $(B)/man.sed $< > $@
$(B)/ordinal.1: tools/man/ordinal.1 tools/build/man_commands.py $(B)/ordinal
	$(say) GEN $@
	$(Q)$(PYTHON) tools/build/man_commands.py $< $(B)/ordinal > $@.new
	$(Q)sed -f $(B)/man.sed $@.new > $@; rm $@.new
$(B)/ordinal.conf.5: Kconfig tools/kconfig/gen.py
	$(say) GEN $@
	$(Q)$(PYTHON) tools/kconfig/gen.py man Kconfig /dev/null > $@.new
	$(Q)sed -f $(B)/man.sed $@.new > $@; rm $@.new

install: programs man
	$(Q)sed 's,@SBINDIR@,$(SBINDIR),g; s,@CONF@,$(CONF),g' systemd/ordinald.service.in > $(B)/ordinald.service
	$(Q)$(PYTHON) tools/kconfig/gen.py conf Kconfig .config > $(B)/ordinal.conf
	$(Q)for i in $(INSTALLS); do rest=$${i#*:}; to="$(DESTDIR)$${rest#*:}"; \
		install -D -m "$${i%%:*}" "$${rest%%:*}" "$$to" && echo "  INSTALL $$to" || exit 1; done
	$(Q)[ -e $(DESTDIR)$(CONF) ] || install -D -m 644 $(B)/ordinal.conf $(DESTDIR)$(CONF)
	@[ -n "$(DESTDIR)" ] || echo "Next, as root: systemd-sysusers && systemctl daemon-reload && systemctl enable --now ordinald"

# Leaves the configuration and the data.
uninstall:
	$(Q)for i in $(INSTALLS); do rest=$${i#*:}; rm -f "$(DESTDIR)$${rest#*:}"; done
	@echo "Left in place: $(CONF) and the data directory"

# build/ordinal_VERSION_ARCH.deb
deb:
	$(Q)tools/build/packages.sh run deb
	$(Q)$(MAKE) deb-package
deb-package: programs
	$(Q)rm -rf $(B)/deb
	$(Q)$(MAKE) install DESTDIR=$(abspath $(B))/deb PREFIX=/usr SYSCONFDIR=/etc UNITDIR=/lib/systemd/system > $(B)/deb.log
	$(Q)tools/deb/build.sh $(B)/deb $(VERSION) $(B)

# ---- the rest ----------------------------------------------------------------------------------------------------------------

.PHONY: clean help
clean:
	rm -rf build compile_commands.json

help:
	@echo "Ordinal $(VERSION)"
	@echo
	@echo "  run          install what is missing, configure, build, and run ordinald in the foreground (data in $(B)/run)"
	@echo "  all          build $(B)/ordinald and $(B)/ordinal (the default)"
	@echo "  defconfig    write .config with every option at its default"
	@echo "  menuconfig   choose options in a menu"
	@echo "  deps         install the Debian packages that building and testing need"
	@echo
	@echo "  test         install what tests need, build, and run all of them: lint, unit, fuzz seeds, e2e"
	@echo "  test-unit    only the unit tests and fuzz seeds"
	@echo "  test-e2e     only the tests that drive the real daemon"
	@echo "  check-service  the package on a booted systemd, in a container: installed, reloaded, killed, upgraded, purged; root only"
	@echo "  check-numa   the daemon on Debian's stock 6.1 kernel with two NUMA nodes, under QEMU"
	@echo "  lint         clang-format, clang-tidy, cppcheck and the direction of includes; one alone: lint-tidy and so on"
	@echo "  format       reformat every source file"
	@echo "  fuzz         fuzz every target for TIME seconds (TIME=$(TIME))"
	@echo "  fuzz-coverage  which share of each parser the seeds and the kept corpus reach"
	@echo
	@echo "  bench        build the benchmarks and run bench/run (ARGS=... for its arguments)"
	@echo "  bench-queues compare the queue implementations"
	@echo "  bench-server-queues   the same inside the server (bench/server-queues)"
	@echo "  bench-idle   the memory of idle connections (bench/idle)"
	@echo
	@echo "  install      to PREFIX ($(PREFIX)), under DESTDIR; keeps an existing $(CONF)"
	@echo "  uninstall    remove what install put there; keeps configuration and data"
	@echo "  deb          a Debian package: $(B)/ordinal_$(VERSION)_*.deb"
	@echo "  python       generate what the Python client in tools/python needs (its README.md)"
	@echo "  compile_commands.json   for editors"
	@echo "  clean        remove build/"
	@echo
	@echo "Variables: V=1 (show commands)  CC=clang  SANITIZE=address,undefined | thread  CFLAGS=...  ARGS=...  -jN (default: all CPUs)"
