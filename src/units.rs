//! Byte sizes: constants, and how people write and read them.

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
}
