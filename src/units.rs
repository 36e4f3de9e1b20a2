//! Quantities: byte sizes, durations and counts, and how people write and read them.

use jiff::{SignedDuration, Span, SpanRelativeTo};

/// 1,024 bytes.
pub const KIB: u64 = 1 << 10;
/// 1,024 KiB.
pub const MIB: u64 = 1 << 20;
/// 1,024 MiB.
pub const GIB: u64 = 1 << 30;

/// Formats a byte count for people: `999 B`, `1.5 KiB`, `20.0 GiB`.
pub fn format_bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < KIB {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// Parses a byte count: digits with an optional unit `K`, `M`, `G`, `T` (or `KiB`, `kb`, …), all powers of 1,024.
///
/// Returns `None` for anything else, and where the size does not fit 64 bits.
pub fn parse_bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits_len = text.bytes().take_while(u8::is_ascii_digit).count();
    let number: u64 = text[..digits_len].parse().ok()?;
    let shift = match text[digits_len..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return None,
    };
    number.checked_mul(1 << shift)
}

/// Parses a duration that is not negative, as `90s`, `10m`, `1h` or `7d`. A day has 24 hours.
pub fn parse_duration(text: &str) -> Option<SignedDuration> {
    let span: Span = text.parse().ok()?;
    span.to_duration(SpanRelativeTo::days_are_24_hours()).ok().filter(|duration| !duration.is_negative())
}

/// Formats seconds as `45 s`, `12 min`, `3 h 20 min`.
pub fn format_duration(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    match seconds {
        0..90 => format!("{seconds} s"),
        90..5400 => format!("{} min", seconds.div_ceil(60)),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// Formats a length of time in seconds that may be years: `45 s`, `12 min`, `20 h`, `365 days`.
pub fn format_age(seconds: i64) -> String {
    match seconds {
        ..0 => "0 s".to_owned(),
        0..7200 => format_duration(seconds as f64),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// Formats a number of things: `0 packs`, `1 pack`, `2 packs`, `1 entry`, `2 entries`.
///
/// The last word of `noun` is put into the plural by the common rules, which know no irregular words.
pub fn count(number: impl TryInto<u64>, noun: &str) -> String {
    let number = number.try_into().unwrap_or(u64::MAX);
    format!("{number} {}", plural(number, noun))
}

/// Returns a noun as it follows a number.
pub fn plural(number: u64, noun: &str) -> String {
    let stem = noun.strip_suffix('y').filter(|stem| !stem.ends_with(['a', 'e', 'o', 'u']));
    match stem {
        _ if number == 1 => noun.to_owned(),
        Some(stem) => format!("{stem}ies"),
        None if ["s", "x", "ch", "sh"].iter().any(|end| noun.ends_with(end)) => format!("{noun}es"),
        None => format!("{noun}s"),
    }
}

/// Adds up numbers that somebody else claims. Where the sum does not fit, it is as large as can be: a lie about a length
/// must neither end the program nor become a small number.
pub fn sum_of_claims(numbers: impl IntoIterator<Item = u64>) -> u64 {
    numbers.into_iter().fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_printed_with_one_decimal() {
        assert_eq!(format_bytes(999), "999 B");
        assert_eq!(format_bytes(1536), "1.5 KiB");
        assert_eq!(format_bytes(MIB - 1), "1.0 MiB");
        assert_eq!(format_bytes(u64::MAX), "16.0 EiB");
    }

    #[test]
    fn sizes_are_parsed_with_or_without_unit() {
        assert_eq!(parse_bytes("512"), Some(512));
        assert_eq!(parse_bytes("512M"), Some(512 * MIB));
        assert_eq!(parse_bytes("1 GiB"), Some(GIB));
        assert_eq!(parse_bytes("1.5G"), None);
        assert_eq!(parse_bytes("-1"), None);
        assert_eq!(parse_bytes("99999999999T"), None);
    }

    #[test]
    fn durations_are_parsed_with_a_unit() {
        assert_eq!(parse_duration("90s"), Some(SignedDuration::from_secs(90)));
        assert_eq!(parse_duration("7d"), Some(SignedDuration::from_hours(7 * 24)));
        assert_eq!(parse_duration("-1h"), None);
        assert_eq!(parse_duration("7"), None);
    }

    #[test]
    fn nouns_agree_with_their_number() {
        assert_eq!(count(1_u64, "problem"), "1 problem");
        assert_eq!(count(0_usize, "problem"), "0 problems");
        assert_eq!(count(2_u32, "tree entry"), "2 tree entries");
        assert_eq!(count(2_u64, "key"), "2 keys");
        assert_eq!(count(3_u64, "index"), "3 indexes");
    }
}
