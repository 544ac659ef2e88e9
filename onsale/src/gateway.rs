//! `onsale gateway`: the simulated payment gateway, for development and tests.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Args as ClapArgs, builder::StyledStr};
use onsale_platform::{config, shutdown, telemetry, webhook};
use onsale_testkit::gateway::{AMOUNT_CODES, Options, serve};
use onsale_workers::config::GatewaySecret;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Runs a payment gateway that moves no money, in the shape of Toss Payments. `onsale up` starts one.
///
/// A buyer's page asks POST /v1/checkout {orderId, amount} for a paymentKey; who has the secret key
/// may confirm, cancel and look up payments, charge the card on file of a customer (POST
/// /v1/billing/{billingKey}; everybody has one, and its billing key is the customer key), and read the
/// book (GET /v1/transactions). It keeps all that it has answered, and listens on loopback only, unless
/// it is told that it may be unsafe.
#[derive(ClapArgs)]
#[command(max_term_width = 100, after_long_help = faults())]
pub struct Args {
    /// Where it listens.
    #[arg(long, env = "ONSALE_GATEWAY_ADDR", default_value = "127.0.0.1:8090")]
    addr: SocketAddr,

    /// Unsafe, and for development only: whether it may listen elsewhere than on loopback. Whoever is
    /// on the way reads the secret.
    #[arg(long = "unsafe-plain-http", env = "ONSALE_GATEWAY_UNSAFE_PLAIN_HTTP",
          default_value_t = false, action = clap::ArgAction::Set)]
    unsafe_plain_http: bool,

    /// Where its book lies.
    #[arg(
        long,
        env = "ONSALE_GATEWAY_DIR",
        default_value = ".onsale/gateway",
        value_name = "DIR"
    )]
    dir: PathBuf,

    /// The secret key that merchants sign in with, as the user of Basic authentication. Better given
    /// as a variable: a command line is seen by everybody on the machine.
    #[arg(long, env = "ONSALE_GATEWAY_SECRET", hide_env_values = true)]
    secret: String,

    /// Where it sends webhooks; it sends none without it.
    #[arg(long, env = "ONSALE_GATEWAY_WEBHOOK_URL", value_name = "URL")]
    webhook_url: Option<String>,

    /// The secrets that webhooks are signed with, separated by commas, each as `whsec_…`; better
    /// given as a variable, too.
    #[arg(
        long,
        env = "ONSALE_GATEWAY_WEBHOOK_SECRETS",
        hide_env_values = true,
        value_delimiter = ','
    )]
    webhook_secrets: Vec<String>,

    /// How long a checkout can be confirmed, in seconds.
    #[arg(long, env = "ONSALE_GATEWAY_CHECKOUT_TTL_S", default_value_t = 600,
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    checkout_ttl_s: u64,

    #[command(flatten)]
    #[allow(missing_docs, reason = "clap takes it for the command's own text")]
    telemetry: config::Telemetry,
}

/// What goes wrong on demand.
fn faults() -> StyledStr {
    let mut text = String::from("What the last three digits of an amount do:\n");
    for (code, what) in AMOUNT_CODES {
        writeln!(text, "  {code:03}  {what}").expect("writing to a string can't fail");
    }
    text.push_str(
        "\nSwitches, for all payments: POST /switches with any of\n  \
         {\"decline\": N, \"timeoutAfterCapture\": N, \"timeoutBeforeCapture\": N, \"error\": N,\n   \
         \"unavailable\": N, \"refundFailure\": N, \"refundDecline\": N, \"timeoutAfterRefund\": N,\n   \
         \"forgetKeys\": N, \"slowMs\": MS, \"webhookCopies\": COUNT, \"lateWebhooksMs\": MS,\n   \
         \"reorderWebhooks\": true, \"loseWebhooks\": N, \"showLatest\": true}\n\
         N is how many of the next are befallen, 0 for none, or \"all\". GET shows them, DELETE turns all\n\
         off. A restart does, too.",
    );
    text.into()
}

/// Runs the command.
///
/// # Errors
/// When a secret is malformed, or it can't listen or write.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    // Not by clap, which would repeat them.
    let secret: GatewaySecret = args.secret.parse().context("ONSALE_GATEWAY_SECRET")?;
    let secrets = args
        .webhook_secrets
        .iter()
        .map(|secret| secret.trim().parse());
    let webhook_secrets: Result<Vec<webhook::Secret>, _> = secrets.collect();
    telemetry::init(&args.telemetry)?;
    let options = Options {
        addr: args.addr,
        unsafe_plain_http: args.unsafe_plain_http,
        dir: args.dir,
        secret_key: secret.expose().to_owned(),
        webhook_url: args.webhook_url,
        webhook_secrets: webhook_secrets.context("ONSALE_GATEWAY_WEBHOOK_SECRETS")?,
        checkout_ttl: Duration::from_secs(args.checkout_ttl_s),
    };
    let stop = CancellationToken::new();
    let signals = JoinSet::from_iter([shutdown::on_signal(stop.clone())]);
    serve(options, stop).await?;
    drop(signals);
    Ok(ExitCode::SUCCESS)
}
