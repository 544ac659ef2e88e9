//! `onsale openapi`: the description of the HTTP API, for files and tools. A running ingress serves
//! the same at `/openapi.json`, and a page of it at `/docs`.

use std::io::Write;
use std::process::ExitCode;

use clap::Args as ClapArgs;
use onsale_ingress::routes;

/// Print the description of the HTTP API (OpenAPI 3.1)
#[derive(ClapArgs)]
pub struct Args {}

/// Prints it.
///
/// # Errors
/// When nobody reads it.
pub fn run(_: &Args) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    out.write_all(routes::document_text().as_bytes())?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}
