//! `onsale openapi`: the description of the HTTP API, for files and tools. A running ingress serves
//! the same at `/openapi.json`, and a page of it at `/docs`.

use std::io::Write;
use std::process::ExitCode;

use clap::Args as ClapArgs;
use onsale_ingress::routes;

pub mod postman;
pub mod sample;

/// Print the description of the HTTP API (OpenAPI 3.1)
#[derive(ClapArgs)]
pub struct Args {
    /// Print a collection of requests that Postman and its like import, instead.
    #[arg(long)]
    postman: bool,
}

/// Prints it.
///
/// # Errors
/// When nobody reads it.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let text = if args.postman {
        postman::collection_text()
    } else {
        routes::document_text()
    };
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}
