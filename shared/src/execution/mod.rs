//! One execution, in its three forms: the request as clients write it, the job as gateway and
//! worker agree on it, and the result as clients read it.

mod content;
mod job;
mod request;
mod result;
mod validate;

pub use content::FileContent;
pub use job::{InputFile, Job, Limits, Source};
pub use request::{ExecuteEnvelope, ExecutionOptions, ExecutionRequest, Network, PoolStrategy};
pub use result::{Ending, ExecutionResult, Failure, Outcome, ResourceUsage, Timings};
pub use validate::Admission;
