"""What people write instead, as scripts on their own: none of them imports anything of the uploader."""
