//! Settings of what the payment gateway tells us.

use clap::Args;
use onsale_platform::webhook::{InvalidSecret, Secret, TOLERANCE_S};
use std::str::FromStr;
use std::sync::Arc;

/// The most secrets at a time; two are enough to replace one.
const SECRETS_MAX: usize = 8;

/// Notifications of the payment gateway.
#[derive(Args, Clone, Debug)]
pub struct GatewayWebhooks {
    /// The secrets that notifications of the payment gateway may be signed with (Standard Webhooks),
    /// separated by commas, each `whsec_` and 24 to 64 bytes in base64; up to 8. None is believed
    /// without it. To replace one: add the new one here, have the gateway sign with it, remove the old
    /// one. A gateway that signs in another way, as Toss Payments does, needs something between that checks
    /// its notifications and signs them so.
    #[arg(
        long = "gateway-webhook-secrets",
        env = "ONSALE_GATEWAY_WEBHOOK_SECRETS",
        hide_env_values = true
    )]
    pub secrets: Option<WebhookSecrets>,

    /// How far the time of a notification may be from ours, in seconds.
    #[arg(long = "gateway-webhook-tolerance-s", env = "ONSALE_GATEWAY_WEBHOOK_TOLERANCE_S", default_value_t = TOLERANCE_S,
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub tolerance_s: u64,
}

impl GatewayWebhooks {
    /// The secrets that a notification is verified with; none when none is believed.
    #[must_use]
    pub fn secrets(&self) -> &[Secret] {
        self.secrets.as_ref().map_or(&[], |secrets| &secrets.0)
    }
}

/// One or more secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookSecrets(Arc<[Secret]>);

impl FromStr for WebhookSecrets {
    type Err = InvalidSecret;

    fn from_str(text: &str) -> Result<Self, InvalidSecret> {
        let secrets = text.split(',').map(|one| one.trim().parse());
        let secrets = secrets.collect::<Result<Vec<Secret>, _>>()?;
        if secrets.len() > SECRETS_MAX {
            return Err(InvalidSecret);
        }
        Ok(Self(secrets.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_or_several_secrets_are_read() {
        let one = Secret::of_bytes(&[1; 32]).unwrap().expose();
        let two = format!("{one}, {}", Secret::of_bytes(&[2; 24]).unwrap().expose());
        assert_eq!(one.parse::<WebhookSecrets>().unwrap().0.len(), 1);
        let both = two.parse::<WebhookSecrets>().unwrap();
        assert_eq!(both.0.len(), 2);
        assert!(!format!("{both:?}").contains("AQEB"));
        let many = [one.as_str(); 9].join(",");
        for bad in ["", ",", "whsec_", &format!("{one},"), &many] {
            assert!(bad.parse::<WebhookSecrets>().is_err(), "{bad}");
        }
    }
}
