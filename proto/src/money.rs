//! Money is integer minor units with a currency. Floats never touch an amount: JSON numbers are read and written
//! as text.

use std::fmt;

use crate::r#type;

/// An ISO 4217 code of three upper-case letters. All currencies here have two decimals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Currency([u8; 3]);

impl Currency {
    /// The currency of every account and order: the REST interface has no field for another one.
    pub const EUR: Self = Self(*b"EUR");

    /// Three upper-case ASCII letters.
    pub fn parse(text: &str) -> Result<Self, MoneyError> {
        let code: [u8; 3] = text.as_bytes().try_into().map_err(|_| MoneyError::Currency)?;
        if code.iter().all(u8::is_ascii_uppercase) { Ok(Self(code)) } else { Err(MoneyError::Currency) }
    }

    /// The code, such as `EUR`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // Only ASCII letters get in, so this can't be anything but UTF-8.
        std::str::from_utf8(&self.0).unwrap_or("XXX")
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why an amount is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MoneyError {
    /// The text is not a decimal number.
    #[error("must be a number")]
    NotANumber,
    /// More than two decimals that aren't zero.
    #[error("must have at most 2 decimals")]
    Decimals,
    /// Does not fit.
    #[error("is too large")]
    Overflow,
    /// Two currencies in one sum.
    #[error("must be in one currency")]
    MixedCurrencies,
    /// Not three upper-case letters.
    #[error("must be a currency code of three upper-case letters")]
    Currency,
    /// The protobuf field is absent.
    #[error("must be set")]
    Missing,
}

/// An exact amount in one currency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Money {
    /// Cents.
    pub minor_units: i64,
    /// Its currency.
    pub currency: Currency,
}

/// Digits that a decimal text may have, sign and exponent apart; 19 hold any `i64`.
const DIGITS_MAX: usize = 24;

impl Money {
    /// An amount of `minor_units` cents.
    #[must_use]
    pub const fn new(minor_units: i64, currency: Currency) -> Self {
        Self { minor_units, currency }
    }

    /// Reads a JSON number or any plain decimal text, exactly: `12.5`, `1e2` and `-0` are numbers, `0.005` has too many
    /// decimals.
    pub fn parse_decimal(text: &str, currency: Currency) -> Result<Self, MoneyError> {
        let (negative, unsigned) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, Some(exponent)),
            None => (unsigned, None),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, "0"));
        let all_digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        // Before the exponent is read: `true` and `null` have an `e` or none, and are no numbers either way.
        let is_exponent = |text: &str| all_digits(text.strip_prefix(['+', '-']).unwrap_or(text));
        if !all_digits(whole) || !all_digits(fraction) || !exponent.is_none_or(is_exponent) {
            return Err(MoneyError::NotANumber);
        }
        let whole = whole.trim_start_matches('0');
        let fraction = fraction.trim_end_matches('0');
        if whole.is_empty() && fraction.is_empty() {
            return Ok(Self::new(0, currency));
        }
        // One that does not fit is beyond all amounts, or below all cents.
        let exponent = exponent.map_or(Ok(0), |text| {
            let is_negative = text.starts_with('-');
            text.parse::<i32>()
                .map_err(|_| if is_negative { MoneyError::Decimals } else { MoneyError::Overflow })
        })?;
        if whole.len() + fraction.len() > DIGITS_MAX {
            return Err(if whole.len() > 17 { MoneyError::Overflow } else { MoneyError::Decimals });
        }
        // value = digits x 10^(exponent - fraction digits); in cents, two more.
        let digits = format!("{whole}{fraction}").parse::<i128>().map_err(|_| MoneyError::Overflow)?;
        let fraction_digits = i32::try_from(fraction.len()).map_err(|_| MoneyError::Decimals)?;
        let scale = exponent
            .checked_add(2)
            .and_then(|e| e.checked_sub(fraction_digits))
            .ok_or(MoneyError::Overflow)?;
        let cents = if scale >= 0 {
            let factor = 10i128.checked_pow(scale.unsigned_abs()).ok_or(MoneyError::Overflow)?;
            digits.checked_mul(factor).ok_or(MoneyError::Overflow)?
        } else {
            let divisor = 10i128.checked_pow(scale.unsigned_abs()).ok_or(MoneyError::Decimals)?;
            if digits % divisor != 0 {
                return Err(MoneyError::Decimals);
            }
            digits / divisor
        };
        let cents = i64::try_from(cents).map_err(|_| MoneyError::Overflow)?;
        Ok(Self::new(if negative { -cents } else { cents }, currency))
    }

    /// The amount as a plain decimal with two digits, which is a valid JSON number: `1234.50`.
    #[must_use]
    pub fn to_decimal(self) -> String {
        let cents = self.minor_units.unsigned_abs();
        let sign = if self.minor_units < 0 { "-" } else { "" };
        format!("{sign}{}.{:02}", cents / 100, cents % 100)
    }

    /// The sum; `Overflow` or `MixedCurrencies` where there is none.
    pub fn checked_add(self, other: Self) -> Result<Self, MoneyError> {
        if self.currency != other.currency {
            return Err(MoneyError::MixedCurrencies);
        }
        let sum = self.minor_units.checked_add(other.minor_units).ok_or(MoneyError::Overflow)?;
        Ok(Self::new(sum, self.currency))
    }

    /// The amount `quantity` times.
    pub fn checked_mul(self, quantity: u32) -> Result<Self, MoneyError> {
        let product = self.minor_units.checked_mul(i64::from(quantity)).ok_or(MoneyError::Overflow)?;
        Ok(Self::new(product, self.currency))
    }

    /// From a protobuf field.
    pub fn from_proto(field: Option<&r#type::v1::Money>) -> Result<Self, MoneyError> {
        let field = field.ok_or(MoneyError::Missing)?;
        Ok(Self::new(field.minor_units, Currency::parse(&field.currency)?))
    }

    /// For a protobuf field.
    #[must_use]
    pub fn to_proto(self) -> r#type::v1::Money {
        r#type::v1::Money { minor_units: self.minor_units, currency: self.currency.to_string() }
    }
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.to_decimal(), self.currency)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cents(text: &str) -> Result<i64, MoneyError> {
        Money::parse_decimal(text, Currency::EUR).map(|money| money.minor_units)
    }

    /// What a JSON number may look like, and the bad inputs of the pitfalls page.
    #[test]
    fn decimals_are_exact() {
        for (text, expected) in [
            ("0.01", Ok(1)),
            ("12.5", Ok(1250)),
            ("12.500", Ok(1250)),
            ("1e2", Ok(10_000)),
            ("1.25E1", Ok(1250)),
            ("125e-1", Ok(1250)),
            ("-0", Ok(0)),
            ("0.000", Ok(0)),
            ("-3.10", Ok(-310)),
            ("1000000.00", Ok(100_000_000)),
            ("0.30000000000000004", Err(MoneyError::Decimals)),
            ("0.005", Err(MoneyError::Decimals)),
            ("1e-400", Err(MoneyError::Decimals)),
            ("1e400", Err(MoneyError::Overflow)),
            ("1e99999999999", Err(MoneyError::Overflow)),
            ("1e-99999999999", Err(MoneyError::Decimals)),
            ("0e99999999999", Ok(0)),
            ("1e+2", Ok(10_000)),
            ("true", Err(MoneyError::NotANumber)),
            ("false", Err(MoneyError::NotANumber)),
            ("null", Err(MoneyError::NotANumber)),
            ("\"1e2\"", Err(MoneyError::NotANumber)),
            ("1e", Err(MoneyError::NotANumber)),
            ("1e+-2", Err(MoneyError::NotANumber)),
            ("1e2e2", Err(MoneyError::NotANumber)),
            ("1e1.5", Err(MoneyError::NotANumber)),
            ("9223372036854775808", Err(MoneyError::Overflow)),
            ("NaN", Err(MoneyError::NotANumber)),
            ("", Err(MoneyError::NotANumber)),
            ("1.", Err(MoneyError::NotANumber)),
            (".5", Err(MoneyError::NotANumber)),
            ("--1", Err(MoneyError::NotANumber)),
            ("1 ", Err(MoneyError::NotANumber)),
        ] {
            assert_eq!(cents(text), expected, "{text}");
        }
    }

    proptest! {
        /// Writing and reading an amount gives the amount.
        #[test]
        fn decimal_round_trip(minor_units in -i64::MAX..=i64::MAX) {
            let money = Money::new(minor_units, Currency::EUR);
            prop_assert_eq!(Money::parse_decimal(&money.to_decimal(), Currency::EUR), Ok(money));
        }

        /// Any text gets an answer, never a panic.
        #[test]
        fn any_text_gets_an_answer(text in "[-0-9.eE+ ]{0,40}") {
            let _ = Money::parse_decimal(&text, Currency::EUR);
        }
    }
}
