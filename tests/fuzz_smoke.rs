//! Runs every fuzz target on inputs made here: no nightly compiler, no libFuzzer, the same inputs every time.
//!
//! Method: seeds from the real encoders ([`seeds`]), changed by a few mutations each. The bodies ([`targets`]) are those
//! that cargo-fuzz runs (`fuzz/README.md`). Beside what they assert, the memory that each call asks for is bounded.
//!
//! `MLVAULT_FUZZ_CASES` sets how many inputs each target gets, `MLVAULT_FUZZ_SEED` sets other inputs,
//! `MLVAULT_FUZZ_CORPUS=dir` writes the seeds for cargo-fuzz to `dir/<target>/`.

#[path = "../fuzz/seeds.rs"]
mod seeds;
#[path = "../fuzz/targets.rs"]
mod targets;

use std::collections::BTreeSet;
use std::fmt::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::{env, fs};

use mlvault::format::object::BODY_LEN_MAX;
use mlvault::parallel;

use crate::support::allocations;

/// Inputs per target.
const CASES: u64 = 20_000;
/// Longest input in bytes.
const INPUT_LEN_MAX: usize = 4096;
/// Most mutations of one input.
const MUTATIONS_MAX: u64 = 4;

/// The most memory that a target may ask for at a time, in bytes: a multiple of the input, and a constant.
///
/// C code (zstd's tables, some 200 KiB once per thread) is not counted.
fn memory_max(target: &str, input_len: usize) -> usize {
    match target {
        // What is declared may be asked for, and is bounded by a named limit. Stored bytes are copied before.
        "object_payload" => BODY_LEN_MAX + 8 * input_len + (4 << 10),
        "compressed" => 4 * targets::DECLARED_LEN_MAX + (256 << 10),
        // JSON and TOML become trees of values: 30 to 200 bytes for as few as one.
        "snapshot" | "snapshot_record" | "config_file" | "deployment_record" | "catalogue_line" | "tracking_answer"
        | "policy" | "setting" | "bundle" | "statement" => 256 * input_len + (32 << 10),
        // The target itself keeps lines and objects apart.
        "row_spool" | "listing" => 512 * input_len + (128 << 10),
        _ => 32 * input_len + (32 << 10),
    }
}

/// SplitMix64 (Steele, Lea, Flood: "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number below `bound`, or 0.
    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }
}

/// What text formats are made of.
const TOKENS: [&str; 24] = [
    "{",
    "}",
    "[",
    "]",
    "\"",
    ":",
    ",",
    "null",
    "-1",
    "1e999",
    "0.1",
    "18446744073709551616",
    "\\u0000",
    "..",
    "/",
    "//",
    "://",
    "%",
    "~",
    "\n",
    "\0",
    "\u{FEFF}",
    "latest",
    "=",
];

/// Returns the input number `case` of a target. The first are the seeds themselves.
fn input(target: &str, seeds: &[Vec<u8>], base: u64, case: u64) -> Vec<u8> {
    if let Some(seed) = seeds.get(case as usize) {
        return seed.clone();
    }
    let name = u64::from_le_bytes(*blake3::hash(target.as_bytes()).as_bytes().first_chunk().unwrap());
    let mut random = Random(base ^ name ^ case.wrapping_mul(0xD6E8_FEB8_6659_FD93));
    let mut bytes = random.pick(seeds).clone();
    for _ in 0..=random.next() % MUTATIONS_MAX {
        mutate(&mut bytes, seeds, &mut random);
    }
    bytes.truncate(INPUT_LEN_MAX);
    bytes
}

fn mutate(bytes: &mut Vec<u8>, seeds: &[Vec<u8>], random: &mut Random) {
    let at = random.below(bytes.len() + 1);
    let end = at + random.below(bytes.len() - at + 1).min(1 << random.below(8));
    match random.below(10) {
        0 => bytes.truncate(at),
        1 => drop(bytes.drain(at..end)),
        2 => {
            let copy = bytes[at..end].to_vec();
            bytes.splice(at..at, copy);
        }
        3 => {
            let other = random.pick(seeds);
            let from = random.below(other.len() + 1);
            bytes.splice(at.., other[from..].iter().copied());
        }
        4 => drop(bytes.splice(at..at, random.pick(&TOKENS).bytes())),
        5 => bytes[at..end].fill(*random.pick(&[0, 1, 0x7F, 0x80, 0xFF])),
        6 | 7 => overwrite_number(bytes, at, random),
        _ => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << random.below(8);
            }
        }
    }
}

/// Writes a number that a length, count or offset should not be, or only just may be.
fn overwrite_number(bytes: &mut [u8], at: usize, random: &mut Random) {
    let len = bytes.len() as u64;
    let numbers =
        [0, 1, 2, len - len.min(1), len, len + 1, 1 << 15, 1 << 20, 1 << 26, 1 << 31, u64::MAX >> 1, u64::MAX];
    let number = random.pick(&numbers).wrapping_add(*random.pick(&[0, 0, 1, u64::MAX]));
    let width = *random.pick(&[2, 4, 8]);
    let at = if random.next().is_multiple_of(2) { at / 4 * 4 } else { at };
    for (byte, new) in bytes[at.min(len as usize)..].iter_mut().zip(&number.to_le_bytes()[..width]) {
        *byte = *new;
    }
}

fn number_from(variable: &str, default: u64) -> u64 {
    env::var(variable).ok().map_or(default, |text| text.parse().expect("a number"))
}

/// Runs a target on one input; returns what went wrong.
fn try_input(target: &str, bytes: &[u8]) -> Result<(), String> {
    let (outcome, peak) = allocations::peak_of(|| catch_unwind(AssertUnwindSafe(|| targets::run(target, bytes))));
    outcome.map_err(|_| "it panicked, see above".to_owned())?;
    let allowed = memory_max(target, bytes.len());
    if peak > allowed {
        return Err(format!("it asked for {peak} bytes of memory; {allowed} are allowed"));
    }
    Ok(())
}

fn try_target(target: &str, base: u64, cases: u64) -> Result<(), String> {
    let seeds = seeds::seeds(target);
    for case in 0..cases {
        let bytes = input(target, &seeds, base, case);
        try_input(target, &bytes).map_err(|reason| {
            let hex = data_encoding::HEXLOWER.encode(&bytes);
            format!("{target}, MLVAULT_FUZZ_SEED={base}, case {case}: {reason}\ninput, hexadecimal: {hex}")
        })?;
    }
    Ok(())
}

#[test]
fn no_decoder_panics_lies_or_takes_much_memory_on_any_input() {
    let base = number_from("MLVAULT_FUZZ_SEED", 0);
    let cases = number_from("MLVAULT_FUZZ_CASES", CASES);
    let failures: Vec<_> = parallel::map(targets::TARGETS, 4, |(target, _)| try_target(target, base, cases))
        .into_iter()
        .filter_map(Result::err)
        .collect();
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

#[test]
fn every_target_has_seeds_and_they_are_written_on_request() {
    for (target, _) in targets::TARGETS {
        let seeds = seeds::seeds(target);
        assert!(!seeds.is_empty() && seeds.iter().all(|seed| seed.len() <= INPUT_LEN_MAX), "{target}");
        if let Some(directory) = env::var_os("MLVAULT_FUZZ_CORPUS") {
            let directory = Path::new(&directory).join(target);
            fs::create_dir_all(&directory).unwrap();
            for (number, seed) in seeds.iter().enumerate() {
                fs::write(directory.join(format!("seed-{number}")), seed).unwrap();
            }
        }
    }
}

/// cargo-fuzz finds targets by their binaries, this test by the list: both must be the same.
#[test]
fn every_target_has_its_binary() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let names: BTreeSet<String> = targets::TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names.len(), targets::TARGETS.len());
    let files = fs::read_dir(root.join("fuzz_targets")).unwrap();
    let files = files.map(|file| file.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned());
    assert_eq!(files.collect::<BTreeSet<_>>(), names);
    let manifest = fs::read_to_string(root.join("Cargo.toml")).unwrap();
    for name in &names {
        let mut binary = String::new();
        write!(binary, "name = \"{name}\"\npath = \"fuzz_targets/{name}.rs\"").unwrap();
        assert!(manifest.contains(&binary), "{name}");
        let source = fs::read_to_string(root.join(format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(source.contains(&format!("targets::run(\"{name}\"")), "{name}");
    }
}
