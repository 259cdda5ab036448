//! The REST data API: `PUT`, `GET`, `HEAD` and `DELETE` on `/v1/kv/{key}`, over any [`Backend`].

mod backend;

pub use backend::{
    Backend, Consistency, Epoch, Failure, ReadPath, ReadReply, ReadRequest, Reason, WriteReply, WriteRequest,
};
