//! Spans of time as users write them: `500ms`, `30s`, `2m`, `1h`, `1d`.

use std::time::Duration;

/// A text is not a span.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum SpanError {
    #[error("is not a whole number with one of the units ms, s, m, h, d, such as 500ms or 30s")]
    Malformed,
    #[error("must be more than zero")]
    Zero,
    #[error("is longer than the {0} days that are allowed")]
    TooLong(u64),
}

/// The longest span: a hundred years.
const MAX_DAYS: u64 = 36_500;

const DAY_MS: u64 = 86_400_000;

/// Reads a span of at least a millisecond.
pub(crate) fn parse(text: &str) -> Result<Duration, SpanError> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => DAY_MS,
        _ => return Err(SpanError::Malformed),
    };
    if number.is_empty() {
        return Err(SpanError::Malformed);
    }
    // Only digits are left, so what does not parse is too large a number.
    let ms = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit_ms));
    match ms {
        Some(0) => Err(SpanError::Zero),
        Some(ms) if ms <= MAX_DAYS * DAY_MS => Ok(Duration::from_millis(ms)),
        _ => Err(SpanError::TooLong(MAX_DAYS)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_is_read() {
        for (text, ms) in
            [("1ms", 1), ("500ms", 500), ("30s", 30_000), ("2m", 120_000), ("1h", 3_600_000), ("1d", DAY_MS)]
        {
            assert_eq!(parse(text), Ok(Duration::from_millis(ms)), "{text}");
        }
    }

    #[test]
    fn what_is_no_span_is_refused() {
        for text in ["", "5", "s", "-1s", "1.5s", "1 s", "1S", "1w", "s1", "1s1", "+1s", "١s", "1é"] {
            assert_eq!(parse(text), Err(SpanError::Malformed), "{text}");
        }
        assert_eq!(parse("0s"), Err(SpanError::Zero));
        for text in ["36501d", "99999999999999999999s", "18446744073709551615d"] {
            assert_eq!(parse(text), Err(SpanError::TooLong(MAX_DAYS)), "{text}");
        }
    }
}
