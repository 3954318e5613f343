//! Seconds since 1970 and calendar dates.

/// Seconds in a day.
pub(super) const DAY: i64 = 86_400;

/// A date and time of day in the Gregorian calendar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Date {
    pub(super) year: i64,
    /// 1–12.
    pub(super) month: i64,
    /// 1–31.
    pub(super) day: i64,
    pub(super) hour: i64,
    pub(super) minute: i64,
    pub(super) second: i64,
}

/// Days from 0000-03-01 to 1970-01-01.
const EPOCH: i64 = 719_468;
/// Days in 400 years.
const ERA: i64 = 146_097;

impl Date {
    /// The date `seconds` after 1970 began.
    pub(super) fn of(seconds: i64) -> Self {
        let time = seconds.rem_euclid(DAY);
        // Years begin in March here, so that the leap day is the last of its year.
        let days = seconds.div_euclid(DAY) + EPOCH;
        let (era, day) = (days.div_euclid(ERA), days.rem_euclid(ERA));
        let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let month = (5 * day + 2) / 153;
        Self {
            year: era * 400 + year + i64::from(month >= 10),
            month: if month < 10 { month + 3 } else { month - 9 },
            day: day - (153 * month + 2) / 5 + 1,
            hour: time / 3600,
            minute: time / 60 % 60,
            second: time % 60,
        }
    }

    /// Seconds since 1970 began. Fields out of range count on into the next larger ones.
    pub(super) fn seconds(&self) -> i64 {
        let month = (self.month - 3).rem_euclid(12);
        let year = self.year + (self.month - 3).div_euclid(12);
        let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
        let day = (153 * month + 2) / 5 + self.day - 1;
        let days = era * ERA + of_era * 365 + of_era / 4 - of_era / 100 + day - EPOCH;
        days * DAY + self.hour * 3600 + self.minute * 60 + self.second
    }

    /// Day of the week, 1 (Sunday) to 7.
    pub(super) fn weekday(&self) -> i64 {
        (self.seconds().div_euclid(DAY) + 4).rem_euclid(7) + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_dates() {
        let date = Date { year: 2000, month: 2, day: 29, hour: 23, minute: 59, second: 58 };
        assert_eq!(date.seconds(), 951_868_798);
        assert_eq!(Date::of(951_868_798), date);
        assert_eq!(date.weekday(), 3);
        assert_eq!(Date::of(0).weekday(), 5);
        assert_eq!(Date::of(-1).year, 1969);
    }

    #[test]
    fn every_day_of_a_thousand_years_converts_back() {
        for day in -200_000..200_000 {
            let seconds = day * DAY + 12_345;
            assert_eq!(Date::of(seconds).seconds(), seconds);
        }
    }
}
