//! The calls of a store, as values: for counting them and for scripting their faults.

/// A call of [`super::ObjectStore`] or [`super::Upload`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Call {
    /// `put_new`
    PutNew,
    /// `put`
    Put,
    /// `upload`
    Upload,
    /// `Upload::part`
    Part,
    /// `Upload::finish`
    Finish,
    /// `get`
    Get,
    /// `size_bytes`
    Size,
    /// `list`
    List,
    /// `delete`
    Delete,
}

impl Call {
    /// How many there are.
    pub const COUNT: usize = 9;

    /// The word used in errors.
    pub const fn name(self) -> &'static str {
        match self {
            Call::PutNew | Call::Put => "put",
            Call::Upload => "begin upload",
            Call::Part => "put part",
            Call::Finish => "finish upload",
            Call::Get => "get",
            Call::Size => "size",
            Call::List => "list",
            Call::Delete => "delete",
        }
    }
}
