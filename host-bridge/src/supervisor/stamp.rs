//! Wall-clock time as names and lines carry it: UTC, and such that text sorts as time does.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Calendar days of the era that the calculation below counts in.
const DAYS_TO_EPOCH: u64 = 719_468;
const DAYS_OF_400_YEARS: u64 = 146_097;

/// `20261125T233012.123Z`: no separator that a file system or a shell minds.
#[must_use]
pub(super) fn compact(at: SystemTime) -> String {
    rfc3339(at).chars().filter(|c| !matches!(c, '-' | ':')).collect()
}

/// `2026-11-25T23:30:12.123Z`: for logs.
#[must_use]
pub(crate) fn rfc3339(at: SystemTime) -> String {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil(days);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
        second / 3600,
        second / 60 % 60,
        second % 60,
        since.subsec_millis()
    )
}

/// Year, month and day of a day since 1970-01-01, in the proleptic Gregorian calendar: years begin
/// in March, so that a leap day is a year's last one.
const fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + DAYS_TO_EPOCH;
    let (era, day_of_era) = (days / DAYS_OF_400_YEARS, days % DAYS_OF_400_YEARS);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + if month <= 2 { 1 } else { 0 };
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_have_the_dates_of_the_calendar() {
        // From `date -u -d @SECONDS`.
        for (seconds, text) in [
            (0, "19700101T000000.000Z"),
            (951_782_399, "20000228T235959.000Z"),
            (951_782_400, "20000229T000000.000Z"),
            (951_868_800, "20000301T000000.000Z"),
            (1_709_164_800, "20240229T000000.000Z"),
            (1_795_649_412, "20261125T233012.000Z"),
            (4_107_542_400, "21000301T000000.000Z"),
        ] {
            assert_eq!(compact(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn text_sorts_as_time_does() {
        let at = |ms: u64| compact(UNIX_EPOCH + Duration::from_millis(ms));
        let mut before = at(0);
        for n in 1..20_000_u64 {
            let now = at(n * 97_654_321);
            assert!(before < now, "{before} {now}");
            before = now;
        }
    }
}
