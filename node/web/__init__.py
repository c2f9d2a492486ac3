"""The page: what people see of exams, and what they say of them."""
