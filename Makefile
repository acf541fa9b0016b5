# Skeleton; see `make help`.
MAKEFLAGS += --no-builtin-rules --no-print-directory
B := build
CC ?= gcc
.DEFAULT_GOAL := all
CPPFLAGS := -D_GNU_SOURCE -I. -I$(B)/gen
CFLAGS := -std=gnu11 -O2 -g -Wall -Wextra -Wno-unused-parameter -MMD -MP -pthread
LDLIBS := -luring -lprotobuf-c -lnuma -lck -lnghttp2 -lsystemd -lz -lcrypto -lssl
LIB_SRC := $(filter-out rpc/ordinald.c,$(wildcard core/base/*.c core/*.c queue/*.c rpc/wire/*.c rpc/client/*.c rpc/*.c))
$(B)/%.o: %.c
	@mkdir -p $(@D); echo "  CC  $<"; $(CC) $(CPPFLAGS) $(CFLAGS) -c -o $@ $<
