# make            build everything, optimized
# make demo       two hosts on this machine: ours against kernel TCP, in one table; DEMO=--without-io-uring confines
#                 them as containers are
# make test       every test; installs and sets up what it needs
# make soak       the simulator with seeds that nobody has tried, for MINUTES (10); a failure says how to replay it
# make attack     every attack that once did harm, beside two hosts that are measured, in one table
# make failures   kills, removes and freezes things; a table says how long what is promised took; KILLS=, CHURN_S=
# make fuzz       feeds every boundary what leads further into it, for 30 s each; FUZZ="SECONDS TARGET..."
# make test-rig   the daemon on PCI NICs of virtual machines; fetches a kernel and QEMU, needs no KVM
# make bench      the whole path beside other stacks, in one table; BENCH="memif --baseline DIR" picks and compares
# make benches    every benchmark
# make counts     instructions of each part of the way, into benches/counts/table.txt; needs valgrind
# make lint       rustfmt, clippy and rustdoc, warnings are errors; the library as applications link it, and the daemon
#                 without DPDK
# make publish-check  whether the packages for the registry could be published
# make install    to PREFIX (default /usr/local), under DESTDIR if that is set: programs, C libraries, header
# make clean

PREFIX ?= /usr/local

export PATH := $(PATH):$(HOME)/.cargo/bin
# What the library does not carry for everybody who links it: msg_gen and hello_world.
TOOLS := --features machnet-endpoint/tools
TARGET := $(or $(CARGO_TARGET_DIR),target)
PROGRAMS := machnet-shards machnet-pktgen machnet-ping msg_gen hello_world

.PHONY: build deps demo test soak attack failures fuzz test-rig bench benches counts lint publish-check install clean

build: deps
	cargo build --release --bins --examples $(TOOLS)
	cargo build --release --package machnet-capi

# What must be installed; a sentence where to get Rust if it is not there.
deps:
	@sh .ci/deps

demo: build
	@cargo run --quiet --release --example demo -- $(DEMO)

# Tests start the programs, so those are built first. loom replaces the atomics, so it has a build of its own; a filter
# that matches nothing would pass, so it is asked for its tests first. The library is looked at as applications link it,
# too: the rest of the workspace switches its features on.
LOOM := RUSTFLAGS="--cfg loom" cargo test --release --package machnet-endpoint --lib --target-dir "$(TARGET)/loom" races
test: deps
	cargo build --bins $(TOOLS)
	cargo build --package machnet-capi
	cargo check --package machnet-endpoint
	cargo test --workspace
	$(LOOM) -- --list | grep ': test$$'
	$(LOOM)

# `make test` runs the first seeds, always the same.
soak: deps
	SIM_MINUTES=$(or $(MINUTES),10) cargo test --test sim -- soak --ignored --nocapture

# `make test` makes the same attacks, for a second each.
attack: deps
	cargo build --bins $(TOOLS)
	MACHNET_ATTACK_SECONDS=$(or $(ATTACK_SECONDS),5) cargo test --test attack

# One test at a time: they measure. What they print is in the log, which is shown when one fails.
FAILURES_LOG := "$(TARGET)/failures.log"
failures: deps
	cargo build --bins $(TOOLS)
	MACHNET_TEST_KILLS=$(or $(KILLS),100) MACHNET_TEST_CHURN_S=$(or $(CHURN_S),60) \
	    cargo test --test end_to_end -- --test-threads=1 killed_ devices:: slow_readers:: churn:: \
	    > $(FAILURES_LOG) 2>&1 || { cat $(FAILURES_LOG); exit 1; }
	@printf '| what happens | promised | p50 | worst | of |\n|---|---|---|---|---|\n'
	@sed -nE 's/^(test .* \.\.\. )?(.*): p50 (.*), worst (.*) of (.*); promised (.*)$$/| \2 | \6 | \3 | \4 | \5 |/p' \
	    $(FAILURES_LOG)

fuzz: deps
	tests/fuzz/run $(or $(FUZZ),30)

# One machine at a time: their emulated CPUs keep all of ours busy.
test-rig: deps
	tests/rig/packages "$(TARGET)/rig"
	cargo build --bins $(TOOLS)
	MACHNET_RIG="$(TARGET)/rig" cargo test --test rig -- --ignored --test-threads=1

# The daemon and the bare device are programs of their own.
bench: build
	cargo bench --bench compare -- $(BENCH)

benches: build
	cargo bench --workspace

counts: deps
	cargo bench --quiet --package machnet-shards --bench counts > $(TARGET)/counts.txt
	mv $(TARGET)/counts.txt benches/counts/table.txt
	cat benches/counts/table.txt

lint: deps
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo clippy --package machnet-endpoint -- -D warnings
	cargo clippy --package machnet-shards --no-default-features -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --package machnet-endpoint --no-deps
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

publish-check: deps
	@sh .ci/publish-check

# Builds only what is not built yet, so that `sudo make install` after `make` needs no Rust for root. ldconfig tells the
# loader of the libraries.
BUILT := $(and $(wildcard $(TARGET)/release/machnet-shards),$(wildcard $(TARGET)/release/libmachnet_shim.a))
install: $(if $(BUILT),,build)
	install -d $(foreach directory,bin include lib/pkgconfig share/machnet,"$(DESTDIR)$(PREFIX)/$(directory)")
	install $(PROGRAMS:%="$(TARGET)/release/%") "$(DESTDIR)$(PREFIX)/bin"
	install -m 644 config.json LICENSE "$(DESTDIR)$(PREFIX)/share/machnet"
	install -m 644 src/capi/include/machnet.h src/capi/include/machnet.hpp "$(DESTDIR)$(PREFIX)/include"
	install -m 644 src/capi/machnet.pc "$(DESTDIR)$(PREFIX)/lib/pkgconfig"
	src/capi/libraries "$(TARGET)/release" "$(DESTDIR)$(PREFIX)/lib"
	$(if $(DESTDIR),,-ldconfig)

clean:
	cargo clean
