//! The client's end of an event stream.

use crate::hall::PATIENCE;
use onsale_testkit::Api;
use reqwest::{Method, RequestBuilder, Response};
use uuid::Uuid;

/// The client's end of an event stream.
pub struct Stream {
    response: Response,
    text: String,
}

impl Stream {
    /// Opens one; none when nobody is there.
    pub async fn open(api: &Api, date: Uuid, last: Option<&str>) -> Option<Self> {
        let mut request = api.request(Method::GET, &format!("/schedules/{date}/events"));
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        Self::of(request).await
    }

    /// Opens one that is asked for so; none when nobody is there.
    pub async fn of(request: RequestBuilder) -> Option<Self> {
        let response = request.timeout(PATIENCE * 10).send().await.ok()?;
        response.status().is_success().then(|| Self {
            response,
            text: String::new(),
        })
    }

    /// The next block of lines; none at the end, an error when it broke.
    pub async fn block(&mut self) -> reqwest::Result<Option<String>> {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let (block, rest) = (block.to_owned(), rest.to_owned());
                self.text = rest;
                return Ok(Some(block));
            }
            match self.response.chunk().await? {
                Some(chunk) => self
                    .text
                    .push_str(std::str::from_utf8(&chunk).expect("text")),
                None => return Ok(None),
            }
        }
    }
}
