//! The REST data API: `PUT`, `GET`, `HEAD` and `DELETE` on `/v1/kv/{key}`, over any [`Backend`].
//!
//! One request: the path becomes a key, query and headers become a [`ReadRequest`] or [`WriteRequest`], the backend
//! answers, and the answer becomes a reply. What a request may say is checked in `request`; each answer becomes HTTP in
//! `reply` and nowhere else.

mod backend;
mod budget;
mod entity_tag;
mod handler;
mod openapi;
mod reply;
mod request;
mod settings;
mod span;
pub mod testing;

pub use backend::{
    Backend, Consistency, Epoch, Failure, ReadPath, ReadReply, ReadRequest, Reason, WriteReply, WriteRequest,
};
pub use handler::{Api, ApiMetrics};
pub use openapi::{openapi, openapi_of_service};
pub use settings::{API_SAMPLE, ApiSettings};
